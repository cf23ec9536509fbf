//! The thread pool: every task once, panics travel, nothing hangs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use joulewise_kernels::cpu::ThreadPool;

fn assert_runs_each_task_once(pool: &ThreadPool, tasks: usize) {
    let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
    pool.run(tasks, &|task| {
        counts[task].fetch_add(1, Ordering::Relaxed);
    });
    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
}

#[test]
fn each_task_runs_once() {
    for threads in [0, 1, 2, 3, 8] {
        let pool = ThreadPool::new(threads);
        assert_eq!(pool.threads(), threads.max(1));
        for round in 0..2000 {
            assert_runs_each_task_once(&pool, round % 40);
        }
    }
}

#[test]
fn works_after_sleeping() {
    let pool = ThreadPool::new(3);
    for _ in 0..20 {
        assert_runs_each_task_once(&pool, 7);
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn waits_for_the_slowest_task() {
    let pool = ThreadPool::new(4);
    let done = AtomicUsize::new(0);
    for _ in 0..10 {
        done.store(0, Ordering::Relaxed);
        pool.run(4, &|task| {
            std::thread::sleep(Duration::from_millis(task as u64));
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.load(Ordering::Relaxed), 4);
    }
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_survives() {
    let pool = ThreadPool::new(3);
    for bad in [0, 5, 63] {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            pool.run(64, &|task| {
                std::thread::sleep(Duration::from_micros(20));
                assert_ne!(task, bad, "bad task");
            });
        }));
        let payload = outcome.unwrap_err();
        assert!(payload.downcast_ref::<String>().is_some_and(|message| message.contains("bad task")));
        assert_runs_each_task_once(&pool, 100);
    }
}

#[test]
fn nested_calls_run() {
    let pool = ThreadPool::new(3);
    let count = AtomicUsize::new(0);
    pool.run(10, &|_| {
        pool.run(10, &|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
    });
    assert_eq!(count.load(Ordering::Relaxed), 100);
}

#[test]
fn concurrent_callers_are_served() {
    let pool = Arc::new(ThreadPool::new(3));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..300 {
                    assert_runs_each_task_once(&pool, 9);
                }
            });
        }
    });
}
