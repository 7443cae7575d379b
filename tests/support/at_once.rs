//! Work on many things at a time.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

/// Does `work` with the number and the value of each of `things`, in `workers` threads.
///
/// # Panics
/// If one of them does.
pub fn at_once<T: Sync>(workers: usize, things: &[T], work: impl Fn(usize, &T) + Sync) {
    let next = AtomicUsize::new(0);
    let take = || {
        let number = next.fetch_add(1, Ordering::Relaxed);
        Some((number, things.get(number)?))
    };
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| std::iter::from_fn(take).for_each(|(number, thing)| work(number, thing)));
        }
    });
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Mutex};

    use super::*;

    #[test]
    fn each_thing_is_done_once_with_its_number() {
        let done = Mutex::new(Vec::new());
        let things: Vec<usize> = (0..1000).map(|number| number * 7).collect();
        at_once(4, &things, |number, thing| done.lock().unwrap().push((number, *thing)));
        let done = done.into_inner().unwrap();
        assert!(done.iter().all(|(number, thing)| *thing == number * 7));
        assert_eq!((done.len(), done.iter().collect::<BTreeSet<_>>().len()), (1000, 1000));
    }
}
