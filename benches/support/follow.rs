//! What a client follows: a query in full or by deltas, or a bucket's changes; across connections, by its cursor.

use noex_server::protocol::Cursor;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::message::{Begun, Message};
use super::view::{Shape, View};

/// What can be followed.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A query with its parameters.
    Query { name: &'static str, params: Value, shape: Shape },
    /// The changes of the records in a bucket that match a filter.
    Feed { bucket: &'static str, filter: Value },
}

/// How a query is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Full,
    Delta,
}

/// What a message did to a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It holds the whole result.
    Whole,
    /// It was brought on from where it was.
    Onward,
    /// It has to be asked for anew from its cursor: changes were left out.
    Gap,
}

/// One thing that a client follows.
pub struct Follow {
    pub subject: Subject,
    mode: Mode,
    /// Its name on the present connection.
    subscription: Option<String>,
    cursor: Option<Cursor>,
    view: Option<View>,
    /// Changes were left out; what arrives until it is followed anew is passed over.
    gap: bool,
    /// Changes of a feed that arrived before the records they are changes of.
    early: Vec<Box<RawValue>>,
    /// How often it was begun from nothing.
    beginnings: u32,
    /// Items that arrived no newer than they were.
    pub not_newer: usize,
}

impl Follow {
    pub fn new(subject: Subject, mode: Mode) -> Self {
        Self {
            subject,
            mode,
            subscription: None,
            cursor: None,
            view: None,
            gap: false,
            early: Vec::new(),
            beginnings: 0,
            not_newer: 0,
        }
    }

    pub fn subscription(&self) -> Option<&str> {
        self.subscription.as_deref()
    }

    pub fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }

    pub fn view(&self) -> Option<&View> {
        self.view.as_ref()
    }

    fn shape(&self) -> Shape {
        match self.subject {
            Subject::Query { shape, .. } => shape,
            Subject::Feed { .. } => Shape::Feed,
        }
    }

    /// The connection is gone.
    pub fn disconnected(&mut self) {
        self.subscription = None;
        if self.view.is_none() {
            self.start_anew();
        }
    }

    /// The cursor is of no use any more.
    pub fn start_anew(&mut self) {
        self.cursor = None;
        self.view = None;
        self.gap = false;
        self.early.clear();
        self.beginnings += 1;
    }

    /// How often it was begun from nothing.
    pub fn beginnings(&self) -> u32 {
        self.beginnings
    }

    /// The operation and the fields of the request to follow this, from where the client is.
    pub fn request(&self) -> (&'static str, Value) {
        let from = self.cursor.map(|cursor| cursor.to_string());
        match &self.subject {
            Subject::Query { name, params, .. } => {
                let mut fields = json!({ "query": name, "params": params });
                if self.mode == Mode::Delta {
                    fields["mode"] = "delta".into();
                }
                if let Some(from) = from {
                    fields["resume"] = from.into();
                }
                ("store.subscribe", fields)
            }
            Subject::Feed { bucket, filter } => {
                let mut fields = json!({ "bucket": bucket, "filter": filter });
                if let Some(from) = from {
                    fields["since"] = from.into();
                }
                ("store.changes", fields)
            }
        }
    }

    /// The operation and the fields of a request for what the view should be.
    pub fn fresh(&self) -> (&'static str, Value) {
        match &self.subject {
            Subject::Query { name, params, .. } => ("store.runQuery", json!({ "query": name, "params": params })),
            Subject::Feed { bucket, filter } => ("store.where", json!({ "bucket": bucket, "filter": filter })),
        }
    }

    /// What the answer to `fresh` says.
    pub fn read_fresh(&self, answer: &Message<'_>) -> Result<View, String> {
        View::read(self.shape(), answer.data)
    }

    /// Whether a change feed that has just begun still lacks the records it changes.
    pub fn lacks_records(&self) -> bool {
        self.subscription.is_some() && self.view.is_none()
    }

    /// Takes the records that the changes of a feed are changes of. What of them is newer than its cursor is
    /// changed once more.
    pub fn fill(&mut self, answer: &Message<'_>) -> Result<(), String> {
        let mut view = self.read_fresh(answer)?;
        for changes in self.early.drain(..) {
            view.change(&changes)?;
        }
        self.view = Some(view);
        Ok(())
    }

    /// Whether changes were left out, so that it has to be followed anew.
    pub fn has_gap(&self) -> bool {
        self.gap
    }

    /// Takes the answer to `request`.
    pub fn begin(&mut self, answer: &Message<'_>) -> Result<Step, String> {
        let data = answer.data.ok_or("an answer without data")?.get();
        let begun: Begun<'_> = serde_json::from_str(data).map_err(|error| error.to_string())?;
        let resumes = self.cursor.is_some();
        let cursor = begun.cursor.as_deref().map(parse_cursor).transpose()?;
        if let (Some(before), Some(now)) = (self.cursor, cursor)
            && before.scope == now.scope
            && now.seq < before.seq
        {
            return Err(format!("the answer goes back from {before} to {now}"));
        }
        self.subscription = Some(begun.subscription_id.into_owned());
        self.gap = false;
        if self.shape() == Shape::Feed {
            // All that happened since an old cursor is still to come, and the new one may be behind it.
            if !resumes {
                self.cursor = cursor;
            }
            return Ok(if resumes { Step::Onward } else { Step::Whole });
        }
        self.cursor = cursor;
        if begun.resumed {
            let delta = begun.delta.ok_or("resumed without a delta")?;
            let view = self.view.as_mut().ok_or("resumed where there was nothing")?;
            self.not_newer += view.apply(&delta)?;
            return Ok(Step::Onward);
        }
        self.view = Some(View::read(self.shape(), begun.data)?);
        Ok(Step::Whole)
    }

    /// Takes a push.
    pub fn push(&mut self, push: &Message<'_>) -> Result<Step, String> {
        let cursor = push.cursor.as_deref().map(parse_cursor).transpose()?;
        if let (Some(before), Some(now)) = (self.cursor, cursor)
            && (before.scope != now.scope || now.seq <= before.seq)
        {
            return Err(format!("the push goes from {before} to {now}"));
        }
        if self.gap || push.missed.is_some() {
            self.gap = true;
            return Ok(Step::Gap);
        }
        self.cursor = cursor;
        match (self.shape(), &push.delta) {
            (Shape::Feed, _) => {
                let changes = push.data.ok_or("a push without data")?;
                match &mut self.view {
                    Some(view) => view.change(changes)?,
                    None => self.early.push(changes.to_owned()),
                }
                Ok(Step::Onward)
            }
            (Shape::Records | Shape::Whole, Some(delta)) => {
                let view = self.view.as_mut().ok_or("a delta before the answer")?;
                self.not_newer += view.apply(delta)?;
                Ok(Step::Onward)
            }
            (Shape::Records | Shape::Whole, None) => {
                self.view = Some(View::read(self.shape(), push.data)?);
                Ok(Step::Whole)
            }
        }
    }
}

fn parse_cursor(text: &str) -> Result<Cursor, String> {
    text.parse().map_err(|_| format!("no cursor: {text}"))
}
