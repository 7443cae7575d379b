//! Nothing that was answered 250 is lost, altered or forgotten, whenever the power fails and whatever the disk did before.

use std::{
    env,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Instant,
};

use support::{
    chance::Chance,
    simulated_disk::Lies,
    simulation::{self, Broken, Counts, Plan},
};

/// Crashes in the usual run, in the same lives each time, so that what fails is what was changed. `CRASHES` in the environment
/// asks for another number, in lives that nobody has seen; `SEEDS_FROM` for certain ones.
const CRASHES: u64 = 20_000;
/// Crashes in one life: enough for segments to be filled, copied forward and removed.
const CRASHES_PER_LIFE: u64 = 40;
/// A lie that is not found out in so many lives is one that the simulation cannot see.
const LIARS_LIVES_MAX: u64 = 200;

#[test]
fn every_recipient_that_heard_250_is_queued_or_has_one_recorded_end_after_each_crash() {
    let wanted: u64 = env::var("CRASHES").map_or(CRASHES, |text| text.parse().expect("CRASHES is a whole number"));
    let seed = |name| env::var(name).ok().map(|text| text.parse().expect("a seed is a whole number"));
    let (only, first) = match (seed("SEED"), seed("SEEDS_FROM")) {
        (Some(seed), _) => (true, seed),
        (None, Some(from)) => (false, from),
        (None, None) if wanted == CRASHES => (false, 0),
        (None, None) => (false, Chance::new().below(1 << 40)),
    };
    println!("crash simulation: seeds from {first}; replay one life with: make crash SEED=...");
    let begun = Instant::now();
    let (next, failed, crashes_before) = (AtomicU64::new(first), AtomicBool::new(false), AtomicU64::new(0));
    let lives = || {
        let mut counts = Counts::default();
        while !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed - first >= if only { 1 } else { wanted.div_ceil(CRASHES_PER_LIFE) } {
                break;
            }
            match simulation::live(Plan { seed, crashes: CRASHES_PER_LIFE, lies: Lies::default(), is_told: only }) {
                Ok(lived) => {
                    crashes_before.fetch_add(lived.crashes, Ordering::Relaxed);
                    counts.add(&lived);
                }
                Err(Broken { what, crashes }) => {
                    failed.store(true, Ordering::Relaxed);
                    let all = crashes_before.load(Ordering::Relaxed) + crashes;
                    panic!("after crash {crashes} ({all} in all lives): {what}\nreplay with: make crash SEED={seed}");
                }
            }
        }
        counts
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let counts = thread::scope(|scope| {
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(lives)).collect();
        let mut all = Counts::default();
        for worker in running {
            all.add(&worker.join().expect("no life breaks a promise"));
        }
        all
    });
    for (what, times) in counts.met() {
        println!("  {times:>9} {what}");
        assert!(only || times > 0, "the simulation has met no {what}: it proves nothing about them");
    }
    println!("  {:>9.1} s", begun.elapsed().as_secs_f64());
}

#[test]
fn a_disk_that_lies_is_found_out() {
    let lies = [
        ("no data sync", Lies { no_data_sync: true, ..Lies::default() }),
        ("no folder sync", Lies { no_folder_sync: true, ..Lies::default() }),
        ("torn rename", Lies { torn_rename: true, ..Lies::default() }),
        ("sync that reports success late", Lies { late_sync: true, ..Lies::default() }),
    ];
    for (name, lies) in lies {
        let mut crashes = 0;
        let caught = (0..LIARS_LIVES_MAX).find_map(|seed| {
            let lived = simulation::live(Plan { seed, crashes: CRASHES_PER_LIFE, lies, is_told: false });
            crashes += lived.as_ref().map_or_else(|broken| broken.crashes, |counts| counts.crashes);
            lived.err()
        });
        let Some(Broken { what, .. }) = caught else { panic!("{name}: not found out in {crashes} crashes") };
        println!("{name}: found out after {crashes} crashes: {what}");
    }
}
