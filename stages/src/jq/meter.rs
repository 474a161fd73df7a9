//! Meter: steps, memory and stack of a run, counted while it goes; past a bound the run unwinds.
//!
//! jaq counts nothing and gives a run no way to end but an error, which a filter may catch. So the
//! run unwinds, from whatever it is in the middle of, up to [`bounded`]. What counts has no context
//! at hand (values are added, compared and dropped by traits), so the meter is the thread's.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use jaq_core::{DataT, Lut, data::HasLut};

use super::value::Value;

/// Steps between two looks at [`Stop`].
const LOOK_EVERY: u64 = 1024;

/// Bytes that one step may move: what costs about as much as evaluating one term.
const BYTES_PER_STEP: usize = 64;

/// Bytes that one suspended evaluation takes, about: its boxed iterators and variables.
const SUSPENDED_BYTES: usize = 256;

/// Steps that a part of a path costs that leads into nothing. Paths are lists that are freed
/// recursively, so this bounds how deep: only such parts make a path longer than its value is deep.
const DEAD_PART_STEPS: u64 = 500;

/// Bounds of one run of a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Steps: terms evaluated, values compared, and each 64 bytes moved.
    pub steps: u64,
    /// Bytes that the values it builds take at once, beside the event.
    pub bytes: usize,
    /// Bytes of the thread's stack.
    pub stack_bytes: usize,
}

impl Bounds {
    /// Bounds for a thread that others wait for: half a millisecond in a debug build (measured). An
    /// event of 4 KB fits that has each of its 60 items looked at and made anew.
    pub const SHORT: Self = Self { steps: 5_000, bytes: 1 << 20, stack_bytes: 256 << 10 };
    /// Bounds of a key: 20 ms in a debug build. Keys are found one after the other, in order.
    pub const KEY: Self = Self { steps: 200_000, bytes: 16 << 20, stack_bytes: 512 << 10 };
    /// The widest bounds. Ten million steps are a second in a debug build (measured: 20 to 100 ns
    /// a step), and ten times what a megabyte of JSON takes whose 14 000 items are each made anew.
    pub const FULL: Self = Self { steps: 10_000_000, bytes: 64 << 20, stack_bytes: 16 << 20 };
    /// Stack of a thread that runs filters in [`Bounds::FULL`], in bytes: as much again for what
    /// is freed recursively. It is address space, taken as it is used.
    pub const FULL_STACK_BYTES: usize = 48 << 20;
}

/// Flag that ends a run from another thread.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Ends the run, within some milliseconds.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// True once it is to end.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bound that a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Overrun {
    /// [`Bounds::steps`].
    #[error(
        "the filter took more than {0} steps: it may never end, or do too much with so large an \
         event"
    )]
    Steps(u64),
    /// [`Bounds::bytes`].
    #[error(
        "the filter held more than {0} bytes at once: let it build less, or split the event first"
    )]
    Memory(usize),
    /// [`Bounds::bytes`], by outputs.
    #[error("the filter gives outputs of more than {0} bytes together: split the event first")]
    Outputs(usize),
    /// [`Bounds::stack_bytes`].
    #[error("the filter called itself too deep: write it as a loop, such as reduce or until")]
    Stack,
    /// Nesting of a value.
    #[error("the filter built a value nested deeper than {0} levels")]
    Nesting(usize),
    /// [`Stop`].
    #[error("the filter was stopped before its end")]
    Stopped,
}

struct Meter {
    bounds: Cell<(u64, usize)>,
    /// Steps left.
    steps: Cell<u64>,
    /// Bytes left; below zero only while a run unwinds.
    room: Cell<isize>,
    /// Address that the stack may grow down to.
    floor: Cell<usize>,
    /// Paths that are being listed.
    paths: Cell<u32>,
    /// Number of the run.
    run: Cell<u64>,
}

thread_local! {
    static METER: Meter = const {
        Meter {
            bounds: Cell::new((u64::MAX, usize::MAX)),
            steps: Cell::new(u64::MAX),
            room: Cell::new(isize::MAX),
            floor: Cell::new(0),
            paths: Cell::new(0),
            run: Cell::new(0),
        }
    };
    static STOP: RefCell<Stop> = RefCell::new(Stop::default());
}

/// Runs `run` within bounds. What it builds must not outlive it.
///
/// # Errors
/// The bound that it came to, or the payload of a panic.
pub(super) fn bounded<T>(
    bounds: &Bounds,
    stop: &Stop,
    run: impl FnOnce() -> T,
) -> Result<T, Result<Overrun, Box<dyn Any + Send>>> {
    STOP.with(|mine| *mine.borrow_mut() = stop.clone());
    METER.with(|meter| {
        meter.bounds.set((bounds.steps, bounds.bytes));
        meter.steps.set(bounds.steps);
        meter.room.set(isize::try_from(bounds.bytes).unwrap_or(isize::MAX));
        meter.floor.set(stack_pointer().saturating_sub(bounds.stack_bytes));
        meter.paths.set(0);
        meter.run.set(meter.run.get() + 1);
    });
    let ran = catch_unwind(AssertUnwindSafe(run));
    // Outside a run nothing is bounded: tests print values.
    METER.with(|meter| {
        meter.steps.set(u64::MAX);
        meter.room.set(isize::MAX);
        meter.floor.set(0);
    });
    ran.map_err(|payload| payload.downcast::<Overrun>().map(|overrun| *overrun))
}

/// Ends the run.
pub(super) fn overrun(overrun: Overrun) -> ! {
    resume_unwind(Box::new(overrun))
}

/// Number of the thread's run.
pub(super) fn run() -> u64 {
    METER.with(|meter| meter.run.get())
}

/// Takes steps.
pub(super) fn step(steps: u64) {
    METER.with(|meter| {
        let left = meter.steps.get();
        let Some(after) = left.checked_sub(steps) else {
            overrun(Overrun::Steps(meter.bounds.get().0));
        };
        meter.steps.set(after);
        if left / LOOK_EVERY != after / LOOK_EVERY && STOP.with(|stop| stop.borrow().is_stopped()) {
            overrun(Overrun::Stopped);
        }
    });
}

/// Takes the steps of reading or moving so many bytes.
pub(super) fn moved(bytes: usize) {
    step(1 + (bytes / BYTES_PER_STEP) as u64);
}

/// Takes the steps of a part of a path that does not lead deeper into a value.
pub(super) fn dead_part() {
    if METER.with(|meter| meter.paths.get() > 0) {
        step(DEAD_PART_STEPS);
    }
}

/// Runs `next` as a part of listing paths.
pub(super) fn listing_paths<T>(next: impl FnOnce() -> T) -> T {
    let add = |n: u32| METER.with(|meter| meter.paths.set(n));
    let before = METER.with(|meter| meter.paths.get());
    add(before + 1);
    let item = next();
    add(before);
    item
}

/// Bytes that are left.
pub(super) fn room() -> usize {
    METER.with(|meter| usize::try_from(meter.room.get()).unwrap_or(0))
}

/// Runs `read` without a bound of memory: the event takes none of the filter's.
pub(super) fn beside<T>(read: impl FnOnce() -> T) -> T {
    let before = METER.with(|meter| meter.room.replace(isize::MAX));
    let value = read();
    METER.with(|meter| meter.room.set(before));
    value
}

/// Ends the run if there is no room for so many bytes, which are not counted while they are used.
pub(super) fn reserve(bytes: usize) {
    if bytes > room() {
        overrun(Overrun::Memory(METER.with(|meter| meter.bounds.get().1)));
    }
}

/// Gives bytes back.
fn widen(bytes: usize) {
    METER.with(|meter| meter.room.set(meter.room.get().saturating_add_unsigned(bytes)));
}

fn stack_pointer() -> usize {
    let here = 0_u8;
    std::ptr::from_ref(&here).addr()
}

/// Memory that a value takes, until it is dropped.
#[derive(Debug, Default)]
pub(super) struct Charge(usize);

impl Charge {
    /// Takes bytes.
    pub(super) fn of(bytes: usize) -> Self {
        let mut charge = Self(0);
        charge.grow(bytes);
        charge
    }

    /// Takes more bytes.
    pub(super) fn grow(&mut self, bytes: usize) {
        METER.with(|meter| {
            let left = meter.room.get().saturating_sub_unsigned(bytes);
            if left < 0 {
                overrun(Overrun::Memory(meter.bounds.get().1));
            }
            meter.room.set(left);
        });
        self.0 += bytes;
    }

    /// Bytes taken.
    pub(super) fn bytes(&self) -> usize {
        self.0
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        widen(self.0);
    }
}

/// Types that our filters are run with: values of ours, and a look-up table that counts.
pub(super) struct Metered;

impl DataT for Metered {
    type V<'a> = Value;
    type Data<'a> = Held<'a>;
}

/// Look-up table as one evaluation holds it.
///
/// jaq asks for the table at the start of every evaluation of a term, and each suspended evaluation
/// holds a clone: here steps are counted, the stack is measured, and what is suspended is charged.
pub(super) struct Held<'a> {
    lut: &'a Lut<Metered>,
    _suspended: Charge,
}

impl<'a> Held<'a> {
    pub(super) fn new(lut: &'a Lut<Metered>) -> Self {
        Self { lut, _suspended: Charge::of(SUSPENDED_BYTES) }
    }
}

impl Clone for Held<'_> {
    fn clone(&self) -> Self {
        Self::new(self.lut)
    }
}

impl<'a> HasLut<'a, Metered> for Held<'a> {
    fn lut(&self) -> &'a Lut<Metered> {
        step(1);
        if stack_pointer() < METER.with(|meter| meter.floor.get()) {
            overrun(Overrun::Stack);
        }
        self.lut
    }
}
