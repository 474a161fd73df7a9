//! Tests: roll calls of a fleet whose workers start, die, leave and are cut off, against
//! the truth.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const STEP: Duration = Duration::from_millis(500);
/// Steps between two records of a worker.
const BEAT: u64 = 4;
/// Steps that a record is kept.
const TTL: u64 = 30;
const ME: usize = 0;

/// Something that happens to the fleet.
#[derive(Debug, Clone, Copy)]
enum Happens {
    Nothing,
    Starts,
    Dies(usize),
    Leaves(usize),
    /// A message is delivered for the first time.
    Delivered(usize),
    /// Our connection breaks, or is made again.
    Cut,
    Mended,
}

/// Worker, with what it knows.
#[derive(Debug)]
struct Process {
    roll: Roll,
    /// Revision up to which it has read.
    read: u64,
    /// Doubt and last sequence delivered, which its consumer will answer.
    asked: Option<(u64, u64)>,
    answered: Option<u64>,
    beats: u64,
    is_alive: bool,
    died: bool,
}

/// Last record of a worker.
#[derive(Debug, Clone, Copy)]
struct Record {
    revision: u64,
    /// Number, and what it says of the fleet; `None`: it left.
    says: Option<(u64, Option<SystemTime>)>,
    step: u64,
}

/// Fleet, the bucket, and the consumer.
struct World {
    start: (Instant, SystemTime),
    step: u64,
    processes: Vec<Process>,
    bucket: HashMap<usize, Record>,
    revision: u64,
    is_cut: bool,
    /// Holder of each message, and the step it was delivered at.
    holders: Vec<(usize, u64)>,
}

impl World {
    fn new(others: usize) -> Self {
        let mut world = Self {
            start: (Instant::now(), SystemTime::UNIX_EPOCH),
            step: 0,
            processes: Vec::new(),
            bucket: HashMap::new(),
            revision: 0,
            is_cut: false,
            holders: Vec::new(),
        };
        (0..=others).for_each(|_| world.starts());
        (0..BEAT * 2).for_each(|_| world.step(Happens::Nothing));
        world
    }

    fn now(&self) -> Instant {
        self.start.0 + STEP * u32::try_from(self.step).unwrap()
    }

    fn at(&self, step: u64) -> SystemTime {
        self.start.1 + STEP * u32::try_from(step).unwrap()
    }

    fn starts(&mut self) {
        let name = self.processes.len();
        self.processes.push(Process {
            roll: Roll { me: name.to_string(), ..Roll::default() },
            read: 0,
            asked: None,
            answered: None,
            beats: 0,
            is_alive: true,
            died: false,
        });
        self.beat(name);
    }

    fn beat(&mut self, worker: usize) {
        if worker == ME && self.is_cut {
            return;
        }
        let now = self.now();
        let process = &mut self.processes[worker];
        process.beats += 1;
        process.roll.sent(process.beats, now);
        let says = (process.beats, process.roll.quiet_since(now));
        self.write(worker, Some(says));
    }

    fn write(&mut self, worker: usize, says: Option<(u64, Option<SystemTime>)>) {
        self.revision += 1;
        let record = Record { revision: self.revision, says, step: self.step };
        self.bucket.insert(worker, record);
    }

    fn alive(&self, nth: usize) -> Option<usize> {
        let alive: Vec<_> =
            (1..self.processes.len()).filter(|n| self.processes[*n].is_alive).collect();
        (!alive.is_empty()).then(|| alive[nth % alive.len()])
    }

    fn step(&mut self, happens: Happens) {
        self.step += 1;
        match happens {
            Happens::Nothing => {}
            Happens::Starts => self.starts(),
            Happens::Dies(nth) => {
                if let Some(worker) = self.alive(nth) {
                    self.processes[worker].is_alive = false;
                    self.processes[worker].died = true;
                }
            }
            Happens::Leaves(nth) => {
                if let Some(worker) = self.alive(nth) {
                    self.processes[worker].is_alive = false;
                    self.write(worker, None);
                }
            }
            Happens::Delivered(nth) => {
                if let Some(worker) = self.alive(nth) {
                    self.holders.push((worker, self.step));
                }
            }
            Happens::Cut => self.is_cut = true,
            Happens::Mended => self.is_cut = false,
        }
        for worker in 0..self.processes.len() {
            if self.processes[worker].is_alive && (self.step + worker as u64).is_multiple_of(BEAT) {
                self.beat(worker);
            }
        }
        let step = self.step;
        self.bucket.retain(|_, record| record.step + TTL > step);
        for worker in 0..self.processes.len() {
            if self.processes[worker].is_alive && !(worker == ME && self.is_cut) {
                self.look(worker);
            }
        }
    }

    /// Reads what is in the bucket, and asks the consumer: its answer comes a step later.
    fn look(&mut self, worker: usize) {
        let mut news: Vec<_> = self.bucket.iter().map(|(by, record)| (*by, *record)).collect();
        news.sort_by_key(|(_, record)| record.revision);
        let (start, delivered, now) = (self.start.1, self.holders.len() as u64, self.now());
        let Process { roll, read, asked, answered, .. } = &mut self.processes[worker];
        if let Some((doubt, delivered)) = asked.take() {
            roll.delivered(consumer(), delivered, doubt);
            *answered = Some(doubt);
        }
        news.retain(|(_, record)| record.revision > *read);
        for (by, record) in news {
            *read = record.revision;
            let written_at = start + STEP * u32::try_from(record.step).unwrap();
            let sign = record.says.map(|(beats, quiet_since)| Sign {
                started_at: "then",
                beats,
                quiet_since,
            });
            roll.heard(&by.to_string(), record.revision, written_at, sign, now);
        }
        if roll.horizon.is_some() && *answered != Some(roll.doubts) {
            *asked = Some((roll.doubts, delivered));
        }
    }

    /// Verdict of `judge` on a message (sequences begin at 1) that comes to it now, and the steps
    /// that it took.
    fn verdict(&mut self, judge: usize, seq: u64, within: Duration) -> (Option<Verdict>, u64) {
        let stored_at = self.at(self.holders[seq as usize - 1].1);
        let returned = Returned { seq, stored_at, arrived: self.now(), within };
        for waited in 0..30 {
            let verdict = self.processes[judge].roll.verdict(&consumer(), &returned);
            if let Some(verdict) = verdict {
                return (Some(verdict), waited);
            }
            self.step(Happens::Nothing);
        }
        (None, 30)
    }
}

fn consumer() -> Consumer {
    ("in".to_owned(), "work".to_owned())
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        20 => Just(Happens::Nothing),
        2 => Just(Happens::Starts),
        2 => (0..9_usize).prop_map(Happens::Dies),
        2 => (0..9_usize).prop_map(Happens::Leaves),
        12 => (0..9_usize).prop_map(Happens::Delivered),
        1 => Just(Happens::Cut),
        2 => Just(Happens::Mended),
    ]
}

/// Ack waits of 2 s and 30 s, in steps, and the age of a sign of life that counts.
const ACK_WAITS: [(u64, Duration); 2] = [(4, Duration::ZERO), (60, limits::HEARD_WITHIN)];

proptest! {
    #[test]
    fn nothing_that_a_worker_died_with_is_innocent_to_anyone(
        others in 0..4_usize,
        story in prop::collection::vec(happens(), 1..120),
        ack_wait in prop::sample::select(&ACK_WAITS[..]),
    ) {
        let mut world = World::new(others);
        for happens in story {
            world.step(happens);
        }
        (0..ack_wait.0).for_each(|_| world.step(Happens::Nothing));
        world.is_cut = false;
        world.look(ME);
        for seq in 1..=world.holders.len() {
            let died = world.processes[world.holders[seq - 1].0].died;
            for judge in 0..world.processes.len() {
                if died && world.processes[judge].is_alive {
                    let (verdict, _) = world.verdict(judge, seq as u64, ack_wait.1);
                    prop_assert_ne!(verdict, Some(Verdict::Innocent), "{} by {}", seq, judge);
                }
            }
        }
    }

    #[test]
    fn what_was_lost_on_its_way_while_all_live_is_innocent_and_soon_to_newcomers_as_well(
        others in 0..4_usize,
        story in prop::collection::vec(happens(), 1..120),
        ack_wait in prop::sample::select(&ACK_WAITS[..]),
    ) {
        let mut world = World::new(others);
        for happens in story {
            // Of one that left while we were away it is not known how much it wrote.
            let is_unclear = world.is_cut && matches!(happens, Happens::Leaves(_));
            if !is_unclear && !matches!(happens, Happens::Dies(_)) {
                world.step(happens);
            }
        }
        world.step(Happens::Mended);
        world.step(Happens::Starts);
        (0..ack_wait.0.max(2 * BEAT)).for_each(|_| world.step(Happens::Nothing));
        for seq in 1..=world.holders.len() as u64 {
            for judge in [ME, world.processes.len() - 1] {
                let (verdict, waited) = world.verdict(judge, seq, ack_wait.1);
                prop_assert_eq!(verdict, Some(Verdict::Innocent));
                prop_assert!(waited <= 2 * BEAT, "after {} steps", waited);
            }
        }
    }

    #[test]
    fn a_death_puts_only_what_was_delivered_by_then_in_doubt(
        others in 2..4_usize,
        before in 1..20_usize,
        after in 1..20_usize,
    ) {
        let mut world = World::new(others);
        (0..before).for_each(|nth| world.step(Happens::Delivered(nth)));
        world.step(Happens::Dies(0));
        (0..10 * BEAT).for_each(|_| world.step(Happens::Nothing));
        (0..after).for_each(|nth| world.step(Happens::Delivered(nth)));
        for seq in 1..=(before + after) as u64 {
            let wanted = if seq > before as u64 { Verdict::Innocent } else { Verdict::Suspect };
            let (verdict, _) = world.verdict(ME, seq, Duration::ZERO);
            prop_assert_eq!(verdict, Some(wanted), "message {}", seq);
        }
    }
}

#[test]
fn a_worker_that_has_heard_of_nobody_suspects_everything() {
    let (roll, within) = (Roll::default(), limits::HEARD_WITHIN);
    let (arrived, stored_at) = (Instant::now(), SystemTime::now());
    let returned = Returned { seq: 1, stored_at, arrived, within };
    assert_eq!(roll.verdict(&consumer(), &returned), Some(Verdict::Suspect));
}

#[test]
fn an_outage_of_the_server_for_as_long_as_you_like_makes_no_suspects() {
    let mut world = World::new(2);
    world.step(Happens::Delivered(0));
    world.step(Happens::Delivered(1));
    // Nobody can write, and records run out.
    world.step += 600;
    world.bucket.clear();
    (0..BEAT).for_each(|_| world.step(Happens::Nothing));
    for seq in [1, 2] {
        assert_eq!(world.verdict(ME, seq, Duration::ZERO).0, Some(Verdict::Innocent));
    }
}

#[test]
fn another_process_under_the_name_of_one_that_took_no_leave_puts_it_in_doubt() {
    let mut world = World::new(1);
    world.step(Happens::Delivered(0));
    let (doubts, revision) = (world.processes[ME].roll.doubts, world.revision + 1);
    let sign = Sign { started_at: "later", beats: 1, quiet_since: None };
    let (written_at, now) = (world.at(world.step), world.now());
    world.processes[ME].roll.heard("1", revision, written_at, Some(sign), now);
    assert_eq!(world.processes[ME].roll.doubts, doubts + 1);
    assert_eq!(world.verdict(ME, 1, limits::HEARD_WITHIN).0, Some(Verdict::Suspect));
}

#[test]
fn records_that_were_held_up_make_nobody_silent_whoever_comes_first() {
    let start = Instant::now();
    let at = |seconds| (start + Duration::from_secs(seconds), SystemTime::UNIX_EPOCH);
    let mut roll = Roll { me: "me".to_owned(), ..Roll::default() };
    let mut revision = 0;
    let mut hear = |roll: &mut Roll, worker: &str, beats, seconds| {
        revision += 1;
        let (now, written_at) = at(seconds);
        let sign = Sign { started_at: "then", beats, quiet_since: None };
        roll.heard(worker, revision, written_at, Some(sign), now);
    };
    for beat in 1..=3 {
        roll.sent(beat, at(2 * beat).0);
        hear(&mut roll, "me", beat, 2 * beat);
        hear(&mut roll, "other", beat, 2 * beat);
    }
    // Nothing goes through for ten seconds; then ours come at once, and those of the other after.
    (4..=8).for_each(|beat| roll.sent(beat, at(2 * beat).0));
    (4..=8).for_each(|beat| hear(&mut roll, "me", beat, 17));
    assert!(!roll.others["other"].is_silent && roll.doubts == 0);
    hear(&mut roll, "other", 8, 17);
    // In time, they do.
    for beat in 9..=12 {
        roll.sent(beat, at(2 * beat).0);
        hear(&mut roll, "me", beat, 2 * beat);
    }
    assert!(roll.others["other"].is_silent && roll.doubts == 1);
}
