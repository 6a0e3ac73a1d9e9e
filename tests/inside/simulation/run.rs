//! One run: a character, some hundred random steps, and a finale in which everything still owed must come.
//!
//! Enters: a seed. Leaves: what was covered; a panic when something is wrong. Must not touch: the session itself.

use std::time::Duration;

use underpass::session::{Close, Message};

use super::chance::Chance;
use super::client::{Client, Numbering};
use super::model::Upstream;
use super::world::{Coverage, World};

/// How long a run may need to hand over everything that is owed, in rounds.
const PATIENCE: u32 = 600;

/// What kind of bad day it is.
struct Run {
    world: World,
    client: Client,
    /// The client is not there; for so many steps.
    away: u64,
    /// The clock makes great leaps.
    jumpy: bool,
    /// The backend takes a message once in so many times.
    sluggish: u64,
    /// Sessions are ended by chance once in so many steps.
    mortal: u64,
    /// The backend talks so much, out of ten.
    talk: u64,
}

/// Runs one seed.
pub(crate) fn run(seed: u64, traced: bool) -> Coverage {
    let mut run = Run::new(seed, traced);
    for _ in 0..run.world.chance.between(80, 400) {
        run.step();
    }
    run.finale();
    run.after_finished();
    std::mem::take(&mut run.world.coverage)
}

impl Run {
    fn new(seed: u64, traced: bool) -> Self {
        let mut chance = Chance::new(seed);
        let acknowledging = !chance.one_in(3);
        let numbering = chance.pick(&[Numbering::Numbered, Numbering::Numbered, Numbering::Bare, Numbering::Mixed]);
        let luck = chance.pick(&[4, 12, 60, 1000]);
        let jumpy = chance.one_in(4);
        let sluggish = chance.pick(&[1, 2, 6, 40]);
        let mortal = chance.pick(&[300, 2000, 1 << 40]);
        let talk = chance.pick(&[2, 4, 7]);
        let client = Client::new(acknowledging, numbering, luck);
        Self { world: World::new(chance, acknowledging, traced), client, away: 0, jumpy, sluggish, mortal, talk }
    }

    fn step(&mut self) {
        self.backend();
        if self.away == 0 {
            self.client();
        } else {
            self.away -= 1;
        }
        match self.world.chance.below(8) {
            0..=2 => self.client.pull_some(&mut self.world),
            3 => self.client.beat(&mut self.world),
            _ => {}
        }
        self.end_by_chance();
        if self.world.chance.one_in(200) {
            self.world.memory_is_short();
        }
        if self.world.chance.one_in(100) && !self.world.model.finished {
            self.world.hand_over();
        }
        self.pass_time();
    }

    // === the backend ===

    fn backend(&mut self) {
        let world = &mut self.world;
        if world.model.upstream == Upstream::Gone {
            return;
        }
        if world.chance.below(10) < self.talk && (world.model.paused.is_none() || world.allowance > 0) {
            if world.model.paused.is_some() {
                world.allowance -= 1;
                world.cover("sent into a pause");
            }
            let number = world.model.last() + 1;
            let bound = world.model.limits.buffer;
            let message = world.chance.message("down", number, bound);
            world.upstream_message(message);
        }
        if world.in_flight && world.chance.one_in(self.sluggish) {
            world.upstream_took();
        }
        if world.close_asked && !world.in_flight && world.chance.one_in(self.sluggish * 8) {
            world.cover("close answered");
            world.upstream_closed(Close::clean(1000, "as you wish"));
        }
    }

    fn end_by_chance(&mut self) {
        let world = &mut self.world;
        if !world.chance.one_in(self.mortal) {
            return;
        }
        match world.chance.below(4) {
            0 if world.model.upstream != Upstream::Gone => {
                world.cover("backend closes");
                world.upstream_closed(Close::clean(4001, "kicked"));
            }
            1 if world.model.upstream != Upstream::Gone => {
                world.cover("backend lost");
                world.upstream_closed(Close::lost());
            }
            2 => world.close(Close::clean(4000, "bye")),
            3 => world.end(Close::clean(1001, "draining")),
            _ => {}
        }
    }

    // === the client ===

    fn client(&mut self) {
        let (client, world) = (&mut self.client, &mut self.world);
        match world.chance.below(100) {
            0..=9 => drop(client.attach(world, true)),
            10..=14 => drop(client.attach(world, false)),
            15..=39 => client.receive_some(world),
            40..=57 => client.pull_some(world),
            58..=69 => client.ack_some(world),
            70..=87 => client.push_some(world),
            88..=91 => client.repeat_old_attach(world),
            92 => client.attach_beyond(world),
            93..=95 => client.drop_some(world),
            96 if world.chance.one_in(6) => {
                client.vanish(world);
                self.away = world.chance.pick(&[10, 60, 200]);
            }
            _ => {}
        }
    }

    // === the clock ===

    fn pass_time(&mut self) {
        let world = &mut self.world;
        let micros = match world.chance.below(40) {
            0..=19 => 0,
            20..=37 => world.chance.below(100_000),
            38 => world.chance.below(2_000_000),
            _ if self.jumpy && world.chance.one_in(4) => world.chance.below(90_000_000),
            _ if self.jumpy => {
                let due = world.next_deadline().map_or(0, |deadline| deadline.since(world.now).as_micros() as u64);
                due.saturating_sub(world.chance.below(2))
            }
            _ => 1,
        };
        world.now = world.now.after(Duration::from_micros(micros));
        let due = world.next_deadline().is_some_and(|deadline| deadline <= world.now);
        if (due && !world.chance.one_in(8)) || world.chance.one_in(60) {
            world.expire();
        }
    }

    // === the end ===

    fn finale(&mut self) {
        if self.world.chance.one_in(3) || self.away > 0 {
            return self.silence();
        }
        self.patience();
        if self.client.closed.is_none() && !self.world.model.finished {
            self.end_somehow();
            self.patience();
        }
        if self.client.closed.is_none() {
            assert!(self.world.model.finished, "a patient client was never told of the end");
        }
        let unsettled = !self.world.model.settled;
        if self.client.closed.is_some() && unsettled {
            assert_eq!(self.client.cursor, self.world.model.last() + 1, "the close takes the number after the last");
            self.client.ask_again(&mut self.world);
            if self.world.chance.one_in(2) {
                self.client.present(&mut self.world);
                assert!(self.world.model.settled);
            }
        }
        self.silence();
    }

    /// A patient client and a healthy backend: everything arrives.
    fn patience(&mut self) {
        for _ in 0..PATIENCE {
            if self.client.persist(&mut self.world) {
                self.world.cover("patience rewarded");
                return;
            }
            self.world.now = self.world.now.after(Duration::from_millis(10));
            if self.world.in_flight {
                self.world.upstream_took();
            }
            if self.world.close_asked && self.world.model.upstream != Upstream::Gone && !self.world.in_flight {
                self.world.upstream_closed(Close::clean(1000, ""));
            }
            self.world.expire();
        }
        panic!("after {PATIENCE} rounds something is still owed to a patient client");
    }

    fn end_somehow(&mut self) {
        let world = &mut self.world;
        match world.chance.below(4) {
            0 => world.upstream_closed(Close::clean(1005, "")),
            1 => world.upstream_closed(Close::lost()),
            2 => world.close(Close::clean(1000, "")),
            _ => world.end(Close::clean(1013, "enough")),
        }
    }

    /// Nobody says anything any more: by its deadlines alone the session comes to its end.
    fn silence(&mut self) {
        self.client.vanish(&mut self.world);
        for _ in 0..64 {
            let Some(deadline) = self.world.next_deadline() else { break };
            let late = Duration::from_micros(self.world.chance.pick(&[0, 0, 1, 3_000_000]));
            self.world.now = self.world.now.max(deadline).after(late);
            self.world.expire();
        }
        assert!(self.world.model.finished, "a session that nobody wants does not end");
    }

    /// Whatever is done to a finished session, nothing follows.
    fn after_finished(&mut self) {
        let world = &mut self.world;
        assert_eq!(world.next_deadline(), None);
        world.upstream_message(Message::text("late"));
        world.upstream_took();
        world.push(Some(1), &[]);
        world.close(Close::clean(1000, "late"));
        world.end(Close::lost());
        drop(self.client.attach(world, true));
        self.client.pull_some(world);
        self.client.ack_some(world);
        self.client.drop_some(world);
        world.now = world.now.after(Duration::from_secs(1000));
        world.expire();
        world.upstream_closed(Close::lost());
    }
}
