//! The `poll` transport: one batch per request (PROTOCOL 4.3). A pure read; the cursor of the next request acknowledges.
//!
//! Enters: a reader. Leaves: an answer with a length. Must not touch: how batches are written.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use tokio::time::{Instant, sleep_until};

use super::answer;
use super::body::Body;
use super::stream::OCTET_STREAM;
use crate::codec::poll::PollAnswer;
use crate::registry::Reader;
use crate::session::{Close, Message, Pulled};

/// When a client that polls a stopping process should come back: its successor needs a moment.
const COME_BACK_MS: u32 = 1000;

/// What the request asked for.
pub struct Asked<'a> {
    /// How long to wait for a first message.
    pub wait: Duration,
    /// Frames instead of JSON.
    pub frames: bool,
    /// To be echoed.
    pub nonce: Option<&'a str>,
}

/// What was gathered for the answer.
#[derive(Default)]
struct Gathered {
    messages: Vec<Message>,
    size: usize,
    close: Option<Close>,
    lost: Option<(u64, u64)>,
    superseded: bool,
    reconnect: Option<u32>,
    after: u64,
}

/// Waits for something to tell, at most as long as was asked, and answers with it.
pub async fn respond(mut reader: Reader, asked: Asked<'_>) -> Response<Body> {
    let from = reader.from();
    let deadline = Instant::now() + asked.wait;
    let gathered = gather(&mut reader, deadline).await;
    let answer_of = PollAnswer {
        from,
        after: gathered.after,
        messages: &gathered.messages,
        close: gathered.close.as_ref(),
        lost: gathered.lost,
        next: reader.cell().standing().counts.next,
        nonce: asked.nonce,
        superseded: gathered.superseded,
        reconnect: gathered.reconnect,
    };
    let (content_type, body): (_, Bytes) = match asked.frames {
        true => (OCTET_STREAM, answer_of.encode_frames()),
        false => ("application/json", answer_of.encode_json()),
    };
    answer(StatusCode::OK, content_type, body)
}

async fn gather(reader: &mut Reader, deadline: Instant) -> Gathered {
    let mut gathered = Gathered { after: reader.from(), ..Gathered::default() };
    let budget = reader.cell().policy().batch;
    loop {
        let until = reader.leave_at().map_or(deadline, |leave| leave.min(deadline));
        let timer = sleep_until(until);
        tokio::pin!(timer);
        let told = poll_fn(|cx| {
            if gathered.pull(reader, cx, budget) {
                return Poll::Ready(true);
            }
            // A request to leave that comes while we wait moves the deadline.
            let moved = reader.leave_at().is_some_and(|leave| leave < until);
            if moved { Poll::Ready(false) } else { timer.as_mut().poll(cx).map(|()| false) }
        })
        .await;
        let now = Instant::now();
        if !told && reader.leave_at().is_some_and(|leave| leave <= now) {
            gathered.reconnect = Some(COME_BACK_MS);
            return gathered;
        }
        if told || deadline <= now {
            return gathered;
        }
    }
}

impl Gathered {
    /// Takes what the session has, up to the budget; true when there is something to tell.
    fn pull(&mut self, reader: &mut Reader, cx: &Context<'_>, budget: usize) -> bool {
        while self.size < budget {
            match reader.poll_pull(cx, budget - self.size) {
                Poll::Pending => break,
                Poll::Ready(Pulled::Batch { first, messages, .. }) => {
                    self.after = first + messages.len() as u64 - 1;
                    self.size += messages.iter().map(|message| message.payload().len()).sum::<usize>().max(1);
                    self.messages.extend(messages);
                }
                Poll::Ready(Pulled::Lost { from, to }) => {
                    self.lost = Some((from, to));
                    self.after = to;
                }
                Poll::Ready(Pulled::Ended { number, close }) => {
                    self.close = Some(close);
                    self.after = number;
                    break;
                }
                Poll::Ready(Pulled::Superseded | Pulled::Wait) => {
                    self.superseded = true;
                    break;
                }
            }
        }
        !self.messages.is_empty() || self.close.is_some() || self.lost.is_some() || self.superseded
    }
}
