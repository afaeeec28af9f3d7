//! Asking the embedding program about a request, before the rules are.
//!
//! The answers are for one request: the connection begins nothing else until they are there, then the request is judged
//! again, by them. They count only where the request still asks the same of the same principal.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::authority::Work;
use super::permissions::PermissionCheck;
use super::principal::Principal;
use super::target::Target;

/// The most questions about one request. Only transactions have more than one.
pub(super) const QUESTIONS_MAX: usize = 256;

/// May this be done with that?
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    operation: String,
    target: String,
}

impl Question {
    pub(super) fn new(operation: &str, target: &Target<'_>) -> Self {
        Self {
            operation: operation.to_owned(),
            target: resource(target).to_owned(),
        }
    }
}

/// What the program is told a request touches: the bucket, also where it is that behind a query, whose name grants
/// nothing; the topic or the procedure; `*` where it is no single thing.
fn resource<'t>(target: &'t Target<'_>) -> &'t str {
    match target {
        Target::Bucket(name) | Target::Query { bucket: Some(name), .. } | Target::Topic(name) | Target::Procedure(name) => name,
        Target::Query { bucket: None, .. } | Target::Server => "*",
    }
}

/// What the program has said about one request.
pub(super) struct Verdicts {
    principal: Arc<Principal>,
    /// None where the asking has failed.
    answers: Option<HashMap<Question, Option<bool>>>,
}

impl Verdicts {
    /// Whether these are the answers to the questions about the same principal, or tell that there are none.
    fn answer(&self, questions: &[Question], principal: &Arc<Principal>) -> bool {
        let is_complete = |answers: &HashMap<Question, Option<bool>>| questions.iter().all(|question| answers.contains_key(question));
        Arc::ptr_eq(&self.principal, principal) && self.answers.as_ref().is_none_or(is_complete)
    }
}

/// How far the asking about a request is.
#[derive(Default)]
pub(super) enum Asking {
    /// Nobody is asked.
    #[default]
    Nobody,
    /// The answers will come here.
    UnderWay(oneshot::Receiver<Verdicts>),
    /// The answers about the request that is being carried out.
    Answered(Verdicts),
}

/// What is to be done about a request before it is judged.
pub(super) enum Next {
    /// It can be judged.
    Judge,
    /// This has to be over first.
    Wait(Work<()>),
    /// The program cannot be asked.
    Fail,
}

impl Asking {
    /// Takes up a request: with the answers that have come for it, or by asking.
    pub(super) fn take_up(&mut self, questions: Vec<Question>, principal: &Arc<Principal>, check: &PermissionCheck) -> Next {
        let verdicts = match std::mem::take(self) {
            Self::UnderWay(mut coming) => coming.try_recv().ok(),
            // Those are about the request before.
            Self::Nobody | Self::Answered(_) => None,
        };
        if let Some(verdicts) = verdicts.filter(|verdicts| verdicts.answer(&questions, principal)) {
            if verdicts.answers.is_none() {
                return Next::Fail;
            }
            *self = Self::Answered(verdicts);
            return Next::Judge;
        }
        let (tell, told) = oneshot::channel();
        *self = Self::UnderWay(told);
        let (check, principal) = (check.clone(), Arc::clone(principal));
        Next::Wait(Box::pin(async move {
            let asking = ask(&check, &principal, questions);
            // A panic of the program says nothing, and so allows nothing.
            let answers = AssertUnwindSafe(asking).catch_unwind().await.ok();
            if answers.is_none() {
                tracing::error!("the check of permissions panicked");
            }
            // The session has gone where nobody waits.
            let _ = tell.send(Verdicts { principal, answers });
        }))
    }

    /// What was said about a part of the request that is being carried out; none where nothing was, or nobody asked.
    pub(super) fn verdict(&self, operation: &str, target: &Target<'_>) -> Option<bool> {
        let Self::Answered(verdicts) = self else { return None };
        let answers = verdicts.answers.as_ref()?;
        answers.get(&Question::new(operation, target)).copied().flatten()
    }

    /// Whether the program has allowed the request that is being carried out, and all of it.
    pub(super) fn has_allowed(&self) -> bool {
        match self {
            Self::Nobody | Self::UnderWay(_) => false,
            Self::Answered(verdicts) => verdicts
                .answers
                .as_ref()
                .is_some_and(|answers| answers.values().all(|answer| *answer == Some(true))),
        }
    }
}

async fn ask(check: &PermissionCheck, principal: &Arc<Principal>, questions: Vec<Question>) -> HashMap<Question, Option<bool>> {
    let mut answers = HashMap::new();
    for question in questions {
        let Question { operation, target } = question.clone();
        let answer = check.ask(Arc::clone(principal), operation, target).await;
        answers.insert(question, answer);
    }
    answers
}

/// That the embedding program has allowed something that goes on: it holds as long as the same user is logged in with
/// the same roles, by the same configuration.
pub(crate) struct Allowed {
    pub(super) principal: Arc<Principal>,
    pub(super) version: u64,
}

impl Allowed {
    pub(super) fn holds(&self, principal: &Principal, version: u64) -> bool {
        let same = |a: &Principal, b: &Principal| a.user_id == b.user_id && a.roles == b.roles && a.metadata == b.metadata;
        self.version == version && same(&self.principal, principal)
    }
}
