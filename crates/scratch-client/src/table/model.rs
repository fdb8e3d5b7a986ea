//! The orders in which callers that share a connection, its broker and its end can take their steps: all of them for two
//! callers. Each step is one that link.rs takes under the table's lock, so these are the ways that threads can meet there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use scratch_proto::v1::GrantResponse;
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;

use super::{Next, Table};
use crate::ClientError;
use crate::owed::Undo;
use crate::packet::Answer;

/// A thread in the middle of a call.
enum Caller {
    New,
    Runs(u64),
    Sleeps(u64, Arc<Alarm>),
    Reads(u64, Box<[u8]>),
    /// It has had its answer, or the end.
    Done,
    Gone(u64),
}

#[derive(Default)]
struct Alarm(AtomicBool);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One step that can be taken now, by the number of the caller or of the request.
#[derive(Debug, Clone, Copy)]
enum Step {
    Goes(usize),
    GivesUp(usize),
    Answers(u64),
    Ends,
}

struct World {
    table: Table,
    callers: Vec<Caller>,
    /// Sent, and not yet answered.
    asked: Vec<u64>,
    /// On the way to whoever reads.
    wire: VecDeque<Option<u64>>,
    is_ended: bool,
    /// Answers that were read, and leases that were revoked on account of them.
    heard: Vec<u64>,
    undone: Vec<String>,
}

impl World {
    fn new(callers: usize) -> Self {
        Self {
            table: Table::new(),
            callers: (0..callers).map(|_| Caller::New).collect(),
            asked: Vec::new(),
            wire: VecDeque::new(),
            is_ended: false,
            heard: Vec::new(),
            undone: Vec::new(),
        }
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (number, caller) in self.callers.iter().enumerate() {
            let goes = match caller {
                // They are alike: which of them is the first makes no difference.
                Caller::New => number == 0 || !matches!(self.callers[number - 1], Caller::New),
                Caller::Runs(_) => true,
                Caller::Sleeps(_, alarm) => alarm.0.load(Ordering::Relaxed),
                Caller::Reads(..) => !self.wire.is_empty(),
                Caller::Done | Caller::Gone(_) => false,
            };
            steps.extend(goes.then_some(Step::Goes(number)));
            let is_waiting = matches!(caller, Caller::Runs(_) | Caller::Sleeps(..) | Caller::Reads(..));
            steps.extend(is_waiting.then_some(Step::GivesUp(number)));
        }
        if !self.is_ended {
            steps.extend(self.asked.iter().map(|id| Step::Answers(*id)));
            steps.push(Step::Ends);
        }
        steps
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Answers(id) => {
                self.asked.retain(|asked| *asked != id);
                self.wire.push_back(Some(id));
            }
            Step::Ends => {
                self.is_ended = true;
                self.wire.push_back(None);
            }
            Step::Goes(number) => {
                let caller = std::mem::replace(&mut self.callers[number], Caller::Done);
                self.callers[number] = self.go(caller);
            }
            Step::GivesUp(number) => {
                let caller = std::mem::replace(&mut self.callers[number], Caller::Done);
                self.callers[number] = match caller {
                    Caller::Reads(id, buffer) => {
                        self.table.stop_reading(buffer);
                        self.leave(id)
                    }
                    Caller::Runs(id) | Caller::Sleeps(id, _) => self.leave(id),
                    _ => panic!("it does not wait"),
                };
            }
        }
    }

    fn go(&mut self, caller: Caller) -> Caller {
        match caller {
            Caller::New => match self.table.begin() {
                Ok(id) => {
                    self.asked.push(id);
                    Caller::Runs(id)
                }
                Err(_) => Caller::Done,
            },
            Caller::Runs(id) | Caller::Sleeps(id, _) => {
                let alarm = Arc::new(Alarm::default());
                let waker = Waker::from(Arc::clone(&alarm));
                match self.table.poll(id, &mut Context::from_waker(&waker)) {
                    Poll::Ready(Next::Take(answer)) => self.answered(id, answer),
                    Poll::Ready(Next::Read(buffer)) => Caller::Reads(id, buffer),
                    Poll::Pending => Caller::Sleeps(id, alarm),
                }
            }
            Caller::Reads(id, buffer) => {
                let heard = match self.wire.pop_front().expect("it reads what is there") {
                    Some(id) => {
                        self.heard.push(id);
                        let reply = Reply::Grant(GrantResponse { id: id.to_string(), ..GrantResponse::default() });
                        Ok(Some((id, Answer { reply, descriptors: Vec::new() })))
                    }
                    None => Err(ClientError::Closed { reason: "the end".to_owned() }),
                };
                let owed = self.table.hear(heard);
                self.undo(owed);
                match self.table.take(id) {
                    Some(answer) => {
                        self.table.stop_reading(buffer);
                        self.answered(id, answer)
                    }
                    None => Caller::Reads(id, buffer),
                }
            }
            Caller::Done | Caller::Gone(_) => panic!("it has ended"),
        }
    }

    /// A caller has its answer, which must be its own; then its request is dropped.
    fn answered(&mut self, id: u64, answer: Result<Answer, ClientError>) -> Caller {
        match answer {
            Ok(Answer { reply: Reply::Grant(granted), .. }) => {
                assert_eq!(granted.id, id.to_string(), "another's answer")
            }
            Ok(_) => panic!("nobody's answer"),
            Err(_) => assert!(self.is_ended, "the end before it came"),
        }
        self.leave(id);
        Caller::Done
    }

    fn leave(&mut self, id: u64) -> Caller {
        let owed = self.table.leave(id, || Some(Undo::Lease));
        self.undo(owed.unwrap_or_default());
        Caller::Gone(id)
    }

    fn undo(&mut self, owed: Vec<Op>) {
        self.undone.extend(owed.into_iter().map(|op| match op {
            Op::Revoke(revoke) => revoke.lease,
            other => panic!("nobody asked for {other:?}"),
        }));
    }

    /// Nothing can happen any more.
    fn check(&self) {
        let mut given_up = Vec::new();
        for caller in &self.callers {
            match caller {
                Caller::Done => {}
                Caller::Gone(id) => given_up.push(*id),
                Caller::Sleeps(..) => panic!("nobody wakes it"),
                Caller::New | Caller::Runs(_) | Caller::Reads(..) => panic!("it could go on"),
            }
        }
        for id in &self.heard {
            let times = self.undone.iter().filter(|lease| **lease == id.to_string()).count();
            let is_over = !given_up.contains(id) || times == 1 || self.table.is_lost();
            assert!(is_over && (given_up.contains(id) || times == 0), "the lease of {id} was revoked {times} times");
        }
    }
}

/// Goes one way from the beginning to where nothing can happen; `choose` picks one of so many steps.
fn one_way(callers: usize, mut choose: impl FnMut(usize) -> usize) {
    let (mut world, mut taken) = (World::new(callers), Vec::new());
    loop {
        let steps = world.steps();
        // That it could give up, or the connection end, is no help to one who sleeps.
        if steps.iter().all(|step| matches!(step, Step::Ends | Step::GivesUp(_))) {
            break;
        }
        let step = steps[choose(steps.len())];
        taken.push(step);
        world.take(step);
    }
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.check()));
    assert!(checked.is_ok(), "after {taken:?}");
}

/// Goes every way, and gives how many there are.
fn every_way(callers: usize) -> u64 {
    let (mut ways, mut choices) = (0, Vec::<(usize, usize)>::new());
    loop {
        let mut depth = 0;
        one_way(callers, |of| {
            if depth == choices.len() {
                choices.push((0, of));
            }
            depth += 1;
            choices[depth - 1].0
        });
        ways += 1;
        while let Some((last, of)) = choices.pop() {
            if last + 1 < of {
                choices.push((last + 1, of));
                break;
            }
        }
        if choices.is_empty() {
            return ways;
        }
    }
}

#[test]
fn each_answer_finds_its_caller() {
    let ways = every_way(2);
    assert!(ways > 1000, "only {ways} ways: what is missing?");
}

#[test]
fn each_answer_finds_its_caller_among_many() {
    // Too many to go them all. With three there is one to be woken when another one, woken to read, gives up instead.
    for seed in 1..20_000_u64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        one_way(3 + usize::from(seed % 2 == 0), |of| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % of as u64).expect("less than a number of steps")
        });
    }
}
