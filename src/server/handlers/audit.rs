//! `audit.query`: reading the audit log.

use std::sync::Arc;

use super::answer::Handled;
use super::failure::Failure;
use super::fields::{self, Misfit};
use super::store_reads::off_task;
use super::{Call, Encoder};
use crate::protocol::json::write_text;
use crate::protocol::{Fields, Number, Part, decode_text};
use crate::server::audit::{Answer, AuditLog, Filter, Query, Verdict};
use crate::store::StoreError;

/// A log of more entries than this is looked through on a thread of its own.
const INLINE_ENTRIES: usize = 2_000;

/// What the answer holds beside the entries.
const FRAME_BYTES: usize = 64;

/// `audit.query`.
pub(super) fn query(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let log = call.context.audit.as_ref().ok_or_else(|| Failure::absent(Part::Audit))?;
    let query = read(call.fields)?;
    let (log, encoder) = (Arc::clone(log), call.encoder());
    if log.len() > INLINE_ENTRIES {
        return Ok(off_task(call, move || answer(&log, &query, encoder)));
    }
    Ok(Handled::Answer(answer(&log, &query, encoder)?))
}

fn answer(log: &AuditLog, query: &Query, encoder: Encoder) -> Result<Vec<u8>, StoreError> {
    let max_bytes = encoder.max_bytes.saturating_sub(FRAME_BYTES);
    let Answer::Entries { json, more_before } = log.query(query, max_bytes) else {
        return Err(StoreError::ResultTooLarge {
            limit_bytes: encoder.max_bytes,
        });
    };
    let mut data = b"{\"entries\":".to_vec();
    data.extend_from_slice(&json);
    if let Some(before) = more_before {
        data.extend_from_slice(b",\"cursor\":");
        write_text(&mut data, &write_cursor(before));
    }
    data.push(b'}');
    encoder.json(Some(&data))
}

/// Reads what is asked for; the first field that is wrong is the answer.
fn read(fields: &Fields<'_>) -> Result<Query, Failure> {
    let mut query = Query {
        filter: Filter {
            user_id: text(fields, "userId")?,
            operation: text(fields, "operation")?,
            verdict: verdict(fields)?,
            from: number(fields, "from")?,
            to: number(fields, "to")?,
            ..Filter::default()
        },
        limit: limit(fields)?,
        before: u64::MAX,
    };
    query.filter.operation_prefix = text(fields, "operationPrefix")?;
    query.filter.resource = text(fields, "resource")?;
    query.filter.code = text(fields, "code")?;
    query.filter.remote_address = text(fields, "remoteAddress")?;
    query.filter.all = flag(fields, "all")?;
    if let Some(cursor) = text(fields, "cursor")? {
        query.before = read_cursor(&cursor).ok_or_else(|| invalid("cursor", "the cursor of an answer"))?;
    }
    Ok(query)
}

fn invalid(name: &str, expected: &str) -> Failure {
    Failure::validation(format!("Invalid \"{name}\": expected {expected}"))
}

fn text(fields: &Fields<'_>, name: &str) -> Result<Option<String>, Failure> {
    let Some(json) = fields.get(name) else { return Ok(None) };
    if !json.starts_with('"') {
        return Err(invalid(name, "string"));
    }
    let text = decode_text(json).ok_or_else(Failure::unreadable)?;
    Ok(Some(text.into_owned()))
}

fn verdict(fields: &Fields<'_>) -> Result<Option<Verdict>, Failure> {
    let complaint = || invalid("result", "\"success\" or \"error\"");
    match text(fields, "result").map_err(|_| complaint())?.as_deref() {
        None => Ok(None),
        Some("success") => Ok(Some(Verdict::Success)),
        Some("error") => Ok(Some(Verdict::Error)),
        Some(_) => Err(complaint()),
    }
}

fn number(fields: &Fields<'_>, name: &str) -> Result<Option<f64>, Failure> {
    let Some(json) = fields.get(name) else { return Ok(None) };
    if !json.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        return Err(invalid(name, "number"));
    }
    let number = Number::parse(json.as_bytes()).ok_or_else(Failure::unreadable)?;
    Ok(Some(number.as_f64()))
}

fn limit(fields: &Fields<'_>) -> Result<usize, Failure> {
    let Some(json) = fields.get("limit") else { return Ok(usize::MAX) };
    let limit = fields::read_whole(Some(json), 1);
    let limit = limit.map_err(|misfit: Misfit| misfit.failure(|| "Invalid \"limit\": expected positive integer".into()))?;
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}

fn flag(fields: &Fields<'_>, name: &str) -> Result<bool, Failure> {
    match fields.get(name) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(invalid(name, "boolean")),
    }
}

fn write_cursor(before: u64) -> String {
    format!("{before:x}")
}

fn read_cursor(text: &str) -> Option<u64> {
    let is_ours = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    is_ours.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}
