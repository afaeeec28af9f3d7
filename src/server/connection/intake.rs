//! What has arrived on a connection and is not begun: a short queue before the driver.
//!
//! Reading goes on for a while when no request may be begun, so that a pong, a close or the end of the stream is
//! noticed. What is read ahead is bounded; beyond it TCP makes the client wait.

use std::collections::VecDeque;

use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::outbox::Outbox;
use super::phase::Event;
use super::socket::Incoming;
use crate::protocol::{CloseCode, Envelope};
use crate::server::statistics::Ticket;

/// The most messages that are read ahead.
const AHEAD_MESSAGES: usize = 32;

/// The most bytes that are read ahead, but for the last message.
const AHEAD_BYTES: usize = 16 * 1024;

/// Something to begin.
pub(super) enum Next {
    /// A message to carry out.
    Message(Ticket, Utf8Bytes),
    /// Something that happens to the connection itself.
    Event(Event),
}

/// Messages in the order in which they arrived.
#[derive(Default)]
pub(super) struct Intake {
    messages: VecDeque<(Ticket, Utf8Bytes)>,
    bytes: usize,
    /// What came after them and is no message: nothing that follows is read.
    last: Option<Event>,
}

impl Intake {
    /// Whether the socket is to be left alone, where no more than so many messages may be read ahead.
    pub(super) fn is_full(&self, messages_max: usize) -> bool {
        self.last.is_some() || self.messages.len() >= AHEAD_MESSAGES.min(messages_max) || self.bytes >= AHEAD_BYTES
    }

    /// Takes in what has arrived. A pong does not queue up behind requests.
    pub(super) fn add(&mut self, incoming: Incoming, may_begin: bool, outbox: &Outbox) {
        match incoming {
            Incoming::Text(text) => {
                let must_wait = !may_begin || !self.messages.is_empty();
                if must_wait && let Some(timestamp) = pong(&text) {
                    return outbox.pong(timestamp);
                }
                self.bytes += text.len();
                self.messages.push_back((Ticket::now(), text));
            }
            Incoming::Control => {}
            Incoming::Binary => self.last = Some(Event::Finish(CloseCode::BinaryNotSupported)),
            Incoming::Fault(code) => self.last = Some(Event::Finish(code)),
            Incoming::Close => self.last = Some(Event::PeerClosed),
            Incoming::Gone => self.last = Some(Event::Gone),
        }
    }

    /// Takes what comes next: a message only where one may be begun.
    pub(super) fn next(&mut self, may_begin: bool) -> Option<Next> {
        if self.messages.is_empty() {
            return self.last.take().map(Next::Event);
        }
        if !may_begin {
            return None;
        }
        let (ticket, text) = self.messages.pop_front()?;
        self.bytes -= text.len();
        Some(Next::Message(ticket, text))
    }

    /// Puts back what was taken last: it cannot be begun yet.
    pub(super) fn put_back(&mut self, ticket: Ticket, text: Utf8Bytes) {
        self.bytes += text.len();
        self.messages.push_front((ticket, text));
    }

    /// Whether there is something for [`Intake::next`] to give.
    pub(super) fn has_next(&self, may_begin: bool) -> bool {
        if self.messages.is_empty() { self.last.is_some() } else { may_begin }
    }
}

/// The timestamp of a pong. Nearly every other message is told apart without being parsed.
fn pong(text: &str) -> Option<f64> {
    if !text.contains("\"pong\"") {
        return None;
    }
    match Envelope::parse(text) {
        Ok(Envelope::Pong { timestamp }) => Some(timestamp),
        Ok(Envelope::Request(_)) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Incoming {
        Incoming::Text(text.into())
    }

    fn message(intake: &mut Intake) -> Option<String> {
        match intake.next(true)? {
            Next::Message(_, text) => Some(text.as_str().to_owned()),
            Next::Event(event) => panic!("{event:?} is no message"),
        }
    }

    #[test]
    fn messages_wait_in_order_until_they_may_be_begun() {
        let (mut intake, outbox) = (Intake::default(), Outbox::default());
        intake.add(text("a"), false, &outbox);
        intake.add(text("b"), false, &outbox);
        assert!(intake.next(false).is_none());
        let first = message(&mut intake).expect("a message");
        intake.put_back(Ticket::now(), first.into());
        assert_eq!(message(&mut intake).as_deref(), Some("a"));
        assert_eq!(message(&mut intake).as_deref(), Some("b"));
        assert!(!intake.has_next(true));
    }

    #[test]
    fn a_close_waits_for_the_messages_before_it_and_for_nothing_else() {
        let (mut intake, outbox) = (Intake::default(), Outbox::default());
        intake.add(text("a"), false, &outbox);
        intake.add(Incoming::Close, false, &outbox);
        assert!(intake.is_full(AHEAD_MESSAGES), "nothing after it is read");
        assert!(intake.next(false).is_none());
        message(&mut intake);
        assert!(matches!(intake.next(false), Some(Next::Event(Event::PeerClosed))));
    }

    #[test]
    fn a_pong_passes_the_messages_before_it() {
        let (mut intake, outbox) = (Intake::default(), Outbox::default());
        outbox.ping(77);
        intake.add(text("a"), false, &outbox);
        intake.add(text(r#"{"id":1,"type":"store.insert","data":{"type":"pong"}}"#), false, &outbox);
        intake.add(text(r#"{"timestamp":77,"type":"pong"}"#), false, &outbox);
        assert!(!outbox.awaits_pong(77));
        assert_eq!(intake.messages.len(), 2);
    }

    #[test]
    fn what_is_read_ahead_is_bounded_in_number_and_in_bytes() {
        let (mut intake, outbox) = (Intake::default(), Outbox::default());
        for _ in 0..AHEAD_MESSAGES {
            assert!(!intake.is_full(AHEAD_MESSAGES));
            intake.add(text("a"), false, &outbox);
        }
        assert!(intake.is_full(AHEAD_MESSAGES));
        for _ in 0..AHEAD_MESSAGES {
            message(&mut intake);
        }
        intake.add(text(&"x".repeat(AHEAD_BYTES)), false, &outbox);
        assert!(intake.is_full(AHEAD_MESSAGES));
        message(&mut intake);
        assert!(!intake.is_full(AHEAD_MESSAGES));
    }
}
