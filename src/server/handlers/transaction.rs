//! `store.transaction`: the form of every step is checked before anything else, and the first problem wins.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::answer::{Handled, Success};
use super::failure::Failure;
use super::fields::{self, LowestVersion, Misfit};
use super::{Call, RequestLimits};
use crate::protocol::{self, BucketName, Datum, ErrorCode, Fields, Record};
use crate::store::{Action, Guard, Operation, Step};

/// Carries out a transaction.
pub(super) fn transaction(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let limits = &call.context.request_limits;
    let forms = read_forms(call.fields)?;
    limits.check_operations(forms.len())?;
    let guards = forms.iter().map(|form| allow(call, form)).collect::<Result<Vec<_>, _>>()?;
    let writes = forms.iter().any(|form| form.action.writes());
    let steps = match resolve(&forms, guards, limits) {
        Ok(steps) => steps,
        Err(failure) => {
            // A missing bucket comes before a filter that is wrong.
            let snapshot = call.context.store.snapshot();
            for form in &forms {
                snapshot.bucket(form.bucket.as_str())?;
            }
            return Err(failure);
        }
    };
    call.submit(Operation::Transaction { steps }, Success::Steps { writes })
}

/// A step of which only the form is known to be sound.
#[derive(Debug, PartialEq)]
struct StepForm {
    bucket: BucketName,
    action: ActionForm,
}

#[derive(Debug, PartialEq)]
enum ActionForm {
    Get {
        key: Datum,
        expect_version: Option<u64>,
    },
    Insert {
        record: Record,
    },
    Update {
        key: Datum,
        changes: Record,
        expect_version: Option<u64>,
    },
    Delete {
        key: Datum,
        expect_version: Option<u64>,
    },
    Where {
        filter: Map<String, Value>,
    },
    FindOne {
        filter: Map<String, Value>,
    },
    Count {
        filter: Map<String, Value>,
    },
}

impl ActionForm {
    fn writes(&self) -> bool {
        match self {
            Self::Insert { .. } | Self::Update { .. } | Self::Delete { .. } => true,
            Self::Get { .. } | Self::Where { .. } | Self::FindOne { .. } | Self::Count { .. } => false,
        }
    }

    /// What the step does, done by itself.
    fn operation(&self) -> protocol::Operation {
        match self {
            Self::Get { .. } => protocol::Operation::StoreGet,
            Self::Insert { .. } => protocol::Operation::StoreInsert,
            Self::Update { .. } => protocol::Operation::StoreUpdate,
            Self::Delete { .. } => protocol::Operation::StoreDelete,
            Self::Where { .. } => protocol::Operation::StoreWhere,
            Self::FindOne { .. } => protocol::Operation::StoreFindOne,
            Self::Count { .. } => protocol::Operation::StoreCount,
        }
    }

    fn resolve(&self, limits: &RequestLimits) -> Result<Action, Failure> {
        let parse = |filter| limits.filter(filter);
        Ok(match self {
            Self::Get { key, expect_version } => Action::Get {
                key: key.clone(),
                expect_version: *expect_version,
            },
            Self::Insert { record } => Action::Insert { record: record.clone() },
            Self::Update {
                key,
                changes,
                expect_version,
            } => Action::Update {
                key: key.clone(),
                changes: changes.clone(),
                expect_version: *expect_version,
            },
            Self::Delete { key, expect_version } => Action::Delete {
                key: key.clone(),
                expect_version: *expect_version,
            },
            Self::Where { filter } => Action::Where { filter: parse(filter)? },
            Self::FindOne { filter } => Action::FindOne { filter: parse(filter)? },
            Self::Count { filter } => Action::Count { filter: parse(filter)? },
        })
    }
}

fn resolve(forms: &[StepForm], guards: Vec<Option<Arc<Guard>>>, limits: &RequestLimits) -> Result<Vec<Step>, Failure> {
    let step = |(form, guard): (&StepForm, _)| {
        Ok(Step {
            bucket: form.bucket.clone(),
            action: form.action.resolve(limits)?,
            guard,
        })
    };
    forms.iter().zip(guards).map(step).collect()
}

/// Whether a step may be carried out, and what of the bucket it may touch.
fn allow(call: &Call<'_, '_>, form: &StepForm) -> Result<Option<Arc<Guard>>, Failure> {
    deny_system(&form.bucket)?;
    let scope = call.access.admit_step(form.action.operation(), form.bucket.as_str())?;
    Ok(scope.guard().cloned())
}

fn deny_system(bucket: &BucketName) -> Result<(), Failure> {
    if bucket.is_reserved() {
        return Err(Failure::new(
            ErrorCode::Forbidden,
            format!("Cannot access system bucket \"{bucket}\" in transaction"),
        ));
    }
    Ok(())
}

fn read_forms(fields: &Fields<'_>) -> Result<Vec<StepForm>, Failure> {
    let operations = fields::read_list(fields.get("operations"))
        .map_err(|misfit| misfit.failure(|| "Missing or invalid \"operations\": expected array".into()))?;
    if operations.is_empty() {
        return Err(Failure::validation("\"operations\" must contain at least one operation"));
    }
    operations
        .into_iter()
        .enumerate()
        .map(|(at, json)| Element { at, json }.read())
        .collect()
}

/// An element of the list, with its place for messages.
struct Element<'a> {
    at: usize,
    json: &'a str,
}

impl<'a> Element<'a> {
    fn read(&self) -> Result<StepForm, Failure> {
        if !self.json.starts_with('{') {
            return Err(self.refuse("expected object"));
        }
        let fields = Fields::parse(self.json).map_err(|_| Failure::unreadable())?;
        let op = fields::read_text(fields.get("op")).map_err(|misfit| self.complain(misfit, EXPECTED_OPS))?;
        let op = Op::parse(&op).ok_or_else(|| self.refuse(EXPECTED_OPS))?;
        let bucket = fields::read_text(fields.get("bucket")).map_err(|misfit| self.complain(misfit, "missing or invalid \"bucket\""))?;
        let action = self.read_action(op, &fields)?;
        Ok(StepForm {
            bucket: BucketName::from(&*bucket),
            action,
        })
    }

    fn read_action(&self, op: Op, fields: &Fields<'a>) -> Result<ActionForm, Failure> {
        let key =
            || fields::read_key(fields.get("key")).map_err(|misfit| self.complain(misfit, &format!("\"{}\" requires \"key\"", op.name())));
        let data = || {
            fields::read_record(fields.get("data"))
                .map_err(|misfit| self.complain(misfit, &format!("\"{}\" requires \"data\" object", op.name())))
        };
        let filter = || {
            fields::read_object(fields.get("filter"))
                .map_err(|misfit| self.complain(misfit, &format!("\"{}\" requires \"filter\" object", op.name())))
        };
        let version = |lowest: LowestVersion| {
            lowest
                .read(fields)
                .map_err(|misfit| self.complain(misfit, &format!("invalid \"expectVersion\": expected {}", lowest.kind())))
        };
        Ok(match op {
            Op::Get => ActionForm::Get {
                key: key()?,
                expect_version: version(LowestVersion::Zero)?,
            },
            Op::Insert => ActionForm::Insert { record: data()? },
            Op::Update => ActionForm::Update {
                key: key()?,
                changes: data()?,
                expect_version: version(LowestVersion::One)?,
            },
            Op::Delete => ActionForm::Delete {
                key: key()?,
                expect_version: version(LowestVersion::One)?,
            },
            Op::Where => ActionForm::Where { filter: filter()? },
            Op::FindOne => ActionForm::FindOne { filter: filter()? },
            Op::Count => {
                let filter = fields::read_optional_object(fields.get("filter"))
                    .map_err(|misfit| self.complain(misfit, "invalid \"filter\": expected object"))?;
                ActionForm::Count {
                    filter: filter.unwrap_or_default(),
                }
            }
        })
    }

    fn refuse(&self, problem: &str) -> Failure {
        Failure::validation(format!("operations[{}]: {problem}", self.at))
    }

    fn complain(&self, misfit: Misfit, problem: &str) -> Failure {
        misfit.failure(|| format!("operations[{}]: {problem}", self.at))
    }
}

/// What a step may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Get,
    Insert,
    Update,
    Delete,
    Where,
    FindOne,
    Count,
}

const EXPECTED_OPS: &str = "invalid \"op\" \u{2014} expected one of: get, insert, update, delete, where, findOne, count";

impl Op {
    const ALL: [Self; 7] = [
        Self::Get,
        Self::Insert,
        Self::Update,
        Self::Delete,
        Self::Where,
        Self::FindOne,
        Self::Count,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Where => "where",
            Self::FindOne => "findOne",
            Self::Count => "count",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(operations: &str) -> Result<Vec<StepForm>, Failure> {
        let text = format!("{{\"operations\":{operations}}}");
        read_forms(&Fields::parse(&text).unwrap())
    }

    fn check_refused(table: &[(&str, &'static str)]) {
        for (operations, message) in table {
            assert_eq!(read(operations), Err(Failure::validation(*message)), "{operations}");
        }
    }

    #[test]
    fn the_form_of_every_step_is_checked_and_the_first_problem_wins() {
        assert_eq!(
            read_forms(&Fields::default()),
            Err(Failure::validation("Missing or invalid \"operations\": expected array"))
        );
        check_refused(&[
            ("{\"0\":{}}", "Missing or invalid \"operations\": expected array"),
            ("null", "Missing or invalid \"operations\": expected array"),
            ("[]", "\"operations\" must contain at least one operation"),
            (r#"[{"op":"count","bucket":"t"},"insert"]"#, "operations[1]: expected object"),
            (r#"[{"op":"count","bucket":"t"},null,7]"#, "operations[1]: expected object"),
            (
                r#"[{"op":"upsert","bucket":"t","data":{}}]"#,
                "operations[0]: invalid \"op\" — expected one of: get, insert, update, delete, where, findOne, count",
            ),
            (
                "[{}]",
                "operations[0]: invalid \"op\" — expected one of: get, insert, update, delete, where, findOne, count",
            ),
            (r#"[{"op":"count"}]"#, "operations[0]: missing or invalid \"bucket\""),
            (r#"[{"op":"count","bucket":""}]"#, "operations[0]: missing or invalid \"bucket\""),
            (
                r#"[{"op":"update","bucket":"t","data":{}}]"#,
                "operations[0]: \"update\" requires \"key\"",
            ),
            (
                r#"[{"op":"get","bucket":"t","key":null}]"#,
                "operations[0]: \"get\" requires \"key\"",
            ),
            (r#"[{"op":"delete","bucket":"t"}]"#, "operations[0]: \"delete\" requires \"key\""),
            (
                r#"[{"op":"insert","bucket":"t","data":[]}]"#,
                "operations[0]: \"insert\" requires \"data\" object",
            ),
            (
                r#"[{"op":"update","bucket":"t","key":1}]"#,
                "operations[0]: \"update\" requires \"data\" object",
            ),
            (
                r#"[{"op":"where","bucket":"t"}]"#,
                "operations[0]: \"where\" requires \"filter\" object",
            ),
            (
                r#"[{"op":"findOne","bucket":"t","filter":[]}]"#,
                "operations[0]: \"findOne\" requires \"filter\" object",
            ),
            (
                r#"[{"op":"count","bucket":"t","filter":[]}]"#,
                "operations[0]: invalid \"filter\": expected object",
            ),
            (
                r#"[{"op":"update","bucket":"t","key":1,"data":{},"expectVersion":0}]"#,
                "operations[0]: invalid \"expectVersion\": expected positive integer",
            ),
            (
                r#"[{"op":"get","bucket":"t","key":1,"expectVersion":-1}]"#,
                "operations[0]: invalid \"expectVersion\": expected non-negative integer",
            ),
        ]);
        assert_eq!(read(r#"[{"op":"get","bucket":"t","key":"\ud800"}]"#), Err(Failure::unreadable()));
    }

    #[test]
    fn sound_steps_come_out_in_order() {
        let forms = read(
            r#"[{"op":"get","bucket":"a","key":1,"expectVersion":0},{"op":"insert","bucket":"b","data":{"id":1.0}},
                {"op":"update","bucket":"a","key":"k","data":{"v":1},"expectVersion":3},{"op":"delete","bucket":"a","key":[]},
                {"op":"where","bucket":"a","filter":{}},{"op":"findOne","bucket":"a","filter":{"x":1}},
                {"op":"count","bucket":"a"},{"op":"count","bucket":"a","filter":null,"op":"count"}]"#,
        )
        .unwrap();
        let actions: Vec<_> = forms.into_iter().map(|form| form.action).collect();
        let object = |value: serde_json::Value| value.as_object().cloned().unwrap();
        let record = |value| Record::from_object(&object(value));
        assert_eq!(
            actions,
            [
                ActionForm::Get {
                    key: Datum::from(1),
                    expect_version: Some(0)
                },
                ActionForm::Insert {
                    record: record(json!({ "id": 1 }))
                },
                ActionForm::Update {
                    key: Datum::from("k"),
                    changes: record(json!({ "v": 1 })),
                    expect_version: Some(3)
                },
                ActionForm::Delete {
                    key: Datum::Composite,
                    expect_version: None
                },
                ActionForm::Where { filter: Map::new() },
                ActionForm::FindOne {
                    filter: object(json!({ "x": 1 }))
                },
                ActionForm::Count { filter: Map::new() },
                ActionForm::Count { filter: Map::new() },
            ]
        );
        assert_eq!(actions.iter().filter(|action| action.writes()).count(), 3);
    }

    #[test]
    fn system_buckets_are_out_of_reach() {
        let refusal = Failure::new(ErrorCode::Forbidden, "Cannot access system bucket \"_users\" in transaction");
        assert_eq!(deny_system(&"_users".into()), Err(refusal));
        assert_eq!(deny_system(&"users".into()), Ok(()));
    }

    proptest! {
        #[test]
        fn no_list_of_operations_makes_the_reader_panic(operations in "[\\[\\]{}:,\"\\\\0-9opbucketkydataflrgsniOhw.-]{0,60}") {
            let text = format!("{{\"operations\":[{operations}]}}");
            if let Ok(fields) = Fields::parse(&text) {
                let _ = read_forms(&fields);
            }
        }
    }
}
