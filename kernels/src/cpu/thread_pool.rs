//! A small thread pool for calls that last microseconds.
//!
//! Workers that find nothing to do spin for a few tens of microseconds, because a decode step asks again at once,
//! and then sleep, because a spinning core costs as much energy as a working one.
//!
//! # How a call runs
//!
//! All coordination goes through one atomic word, `state`: a generation number, an `OPEN` bit and the number of
//! workers inside the current call.
//! The caller writes the job while the word is closed and nobody is inside, opens it under a new generation, and
//! takes tasks itself.
//! A worker enters by incrementing the count, which only succeeds while the word is open.
//! When the tasks run out the caller closes the word and waits for the workers that are inside; a worker that
//! never woke up is not waited for.

use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::fetch::Fetch;

/// How long an idle worker, or a caller that waits for the last worker, spins before it sleeps.
///
/// Longer than the gaps between the parallel operations of a decode step (a few microseconds each), shorter than
/// anything a person or a power meter notices.
const SPIN: Duration = Duration::from_micros(40);

/// Set while workers may enter the call.
const OPEN: u64 = 1 << 31;
/// Set when the caller sleeps until the last worker leaves.
const CALLER_SLEEPS: u64 = 1 << 30;
/// The number of workers inside.
const INSIDE: u64 = CALLER_SLEEPS - 1;
/// Generations count in the upper half.
const GENERATION: u64 = 1 << 32;

/// Threads that run the tasks of one call at a time.
#[derive(Debug)]
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the thread whose call is running.
    caller: Mutex<()>,
}

type Task = dyn Fn(usize) + Sync;
type Ahead = dyn Fn(usize) -> Fetch + Sync;

struct Shared {
    state: AtomicU64,
    /// For each thread the next task of its share.
    next_tasks: Box<[NextTask]>,
    job: UnsafeCell<Job>,
    shutdown: AtomicBool,
    /// Workers that sleep, or are about to.
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake_worker: Condvar,
    wake_caller: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// On a cache line of its own: each thread counts in its own until that share is done.
#[derive(Default)]
#[repr(align(128))]
struct NextTask(AtomicUsize);

#[derive(Clone, Copy)]
struct Job {
    tasks: usize,
    function: *const Task,
    /// What each thread fetches when no tasks are left, if it is told.
    ahead: Option<*const Ahead>,
}

// SAFETY: `job` is written only by the thread that holds `ThreadPool::caller`, while `state` is closed with nobody
// inside, and read only by workers inside an open call, so no two threads race on it. The function it points to is
// `Sync`. Everything else is atomic or locked.
unsafe impl Sync for Shared {}
// SAFETY: nothing in it belongs to a particular thread; see `Sync` for the pointer.
unsafe impl Send for Shared {}

impl ThreadPool {
    /// A pool of `threads` threads, the caller of [`run`](Self::run) being one of them; 0 counts as 1.
    ///
    /// When the system refuses a thread the pool has fewer.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            next_tasks: (0..threads.max(1)).map(|_| NextTask::default()).collect(),
            job: UnsafeCell::new(Job { tasks: 0, function: &|_: usize| {}, ahead: None }),
            shutdown: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake_worker: Condvar::new(),
            wake_caller: Condvar::new(),
            panic: Mutex::new(None),
        });
        let workers = (1..threads)
            .map_while(|i| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new().name(format!("joulewise-{i}")).spawn(move || shared.work(i)).ok()
            })
            .collect();
        Self { shared, workers, caller: Mutex::new(()) }
    }

    /// Threads that take tasks, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// The thread whose share task `task` of so many is.
    pub(super) fn owner(&self, task: usize, tasks: usize) -> usize {
        let owns = |thread: &usize| self.shared.share(*thread, tasks).contains(&task);
        (0..self.threads()).find(owns).unwrap_or(0)
    }

    /// The first task of a thread's share, if there are so many.
    pub(super) fn first_task(&self, thread: usize, tasks: usize) -> usize {
        self.shared.share(thread, tasks).start
    }

    /// Whether of so many tasks `task` and the one behind it are of the same thread's share.
    pub(super) fn are_of_one_share(&self, task: usize, tasks: usize) -> bool {
        task + 1 < tasks && self.owner(task, tasks) == self.owner(task + 1, tasks)
    }

    /// Calls `f(0)`, `f(1)` .. `f(tasks - 1)`, each once, on all threads, and returns when all are done.
    ///
    /// Each thread first takes the tasks of its own share, a contiguous part of them, one by one in order, and then those
    /// that are left of others' shares: unequal tasks balance, and calls whose tasks go through the same data in the same
    /// order find it in the caches of the same cores.
    /// Called from inside a task, or while another thread's call is running, it runs every task on the calling
    /// thread.
    ///
    /// # Panics
    ///
    /// When a task panics: remaining tasks may be skipped, and the panic continues in the caller.
    pub fn run(&self, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        self.start(tasks, f, None);
    }

    /// The same; a thread that finds no more tasks fetches what `ahead` says for it, until it is called again.
    pub(super) fn run_and_fetch(
        &self,
        tasks: usize,
        f: &(dyn Fn(usize) + Sync),
        ahead: &(dyn Fn(usize) -> Fetch + Sync),
    ) {
        self.start(tasks, f, Some(ahead));
    }

    fn start(
        &self,
        tasks: usize,
        f: &(dyn Fn(usize) + Sync),
        ahead: Option<&(dyn Fn(usize) -> Fetch + Sync)>,
    ) {
        let guard = if self.workers.is_empty() || tasks < 2 { None } else { self.caller.try_lock().ok() };
        let Some(_guard) = guard else {
            (0..tasks).for_each(f);
            return;
        };
        let shared = &*self.shared;
        let function: *const (dyn Fn(usize) + Sync + '_) = f;
        // SAFETY: only the lifetime changes. Workers call the function only between entering and leaving this
        // call, and `run` does not return (nor unwind) before it has closed the call and the last one has left.
        let function =
            unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const Task>(function) };
        let ahead_pointer = ahead.map(|ahead| {
            let ahead: *const (dyn Fn(usize) -> Fetch + Sync + '_) = ahead;
            // SAFETY: as above.
            unsafe { std::mem::transmute::<*const (dyn Fn(usize) -> Fetch + Sync + '_), *const Ahead>(ahead) }
        });
        // SAFETY: the call is closed with nobody inside (the previous `run` waited for that, and `caller` keeps
        // other callers out), so no worker reads the job now.
        unsafe { *shared.job.get() = Job { tasks, function, ahead: ahead_pointer } };
        for (thread, next) in shared.next_tasks.iter().enumerate() {
            next.0.store(shared.share(thread, tasks).start, Ordering::Relaxed);
        }
        // The stores above become visible to whoever sees the call open.
        shared.state.fetch_add(GENERATION | OPEN, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&shared.sleep));
            shared.wake_worker.notify_all();
        }
        shared.take_tasks(0, tasks, f);
        shared.close_and_wait(ahead.map(|ahead| ahead(0)).unwrap_or_default());
        let panic = lock(&shared.panic).take();
        if let Some(payload) = panic {
            drop(_guard);
            resume_unwind(payload);
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.shutdown.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.sleep));
        self.shared.wake_worker.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks, so there is nothing to report.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    /// The life of worker `thread`.
    fn work(&self, thread: usize) {
        let mut seen = 0;
        let mut fetch = Fetch::default();
        while let Some(state) = self.wait_for_call(seen, &mut fetch) {
            seen = state / GENERATION;
            if !self.enter(state) {
                continue;
            }
            // SAFETY: this worker is inside an open call, so the caller has written the job before opening it and
            // does not touch it before this worker leaves.
            let job = unsafe { *self.job.get() };
            // SAFETY: as above, the caller keeps the function alive until this worker leaves.
            self.take_tasks(thread, job.tasks, unsafe { &*job.function });
            if let Some(ahead) = job.ahead {
                // SAFETY: as above.
                fetch = unsafe { (*ahead)(thread) };
            }
            self.leave();
        }
    }

    /// Waits until a call newer than `seen` is open and returns the state, or `None` at shutdown.
    fn wait_for_call(&self, seen: u64, fetch: &mut Fetch) -> Option<u64> {
        let is_new = |state: u64| state & OPEN != 0 && state / GENERATION != seen;
        let ready = || {
            let state = self.state.load(Ordering::SeqCst);
            (is_new(state) || self.shutdown.load(Ordering::SeqCst)).then_some(state)
        };
        let state = spin(&ready, fetch).unwrap_or_else(|| {
            let mut guard = lock(&self.sleep);
            // Announced before the last look at the state, while the caller opens the call before it looks at
            // the sleepers: one of the two sees the other.
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            let state = loop {
                if let Some(state) = ready() {
                    break state;
                }
                guard = self.wake_worker.wait(guard).unwrap_or_else(PoisonError::into_inner);
            };
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
            state
        });
        is_new(state).then_some(state)
    }

    /// Enters the call seen in `state`; fails when it has closed meanwhile.
    fn enter(&self, mut state: u64) -> bool {
        let generation = state / GENERATION;
        while state & OPEN != 0 && state / GENERATION == generation {
            match self.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    fn leave(&self) {
        let before = self.state.fetch_sub(1, Ordering::AcqRel);
        if before & CALLER_SLEEPS != 0 && before & INSIDE == 1 {
            drop(lock(&self.sleep));
            self.wake_caller.notify_all();
        }
    }

    /// The tasks that are a thread's to begin with.
    fn share(&self, thread: usize, tasks: usize) -> Range<usize> {
        let threads = self.next_tasks.len();
        tasks * thread / threads..tasks * (thread + 1) / threads
    }

    /// Takes tasks until there are none, or one has panicked.
    fn take_tasks(&self, thread: usize, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        let threads = self.next_tasks.len();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            for owner in (thread..threads).chain(0..thread) {
                let (next, end) = (&self.next_tasks[owner].0, self.share(owner, tasks).end);
                while next.load(Ordering::Relaxed) < end {
                    let task = next.fetch_add(1, Ordering::Relaxed);
                    if task < end {
                        f(task);
                    }
                }
            }
        }));
        if let Err(payload) = outcome {
            // Nobody starts another task; the additions above cannot wrap from half way.
            for next in &self.next_tasks {
                next.0.store(usize::MAX / 2, Ordering::Relaxed);
            }
            lock(&self.panic).get_or_insert(payload);
        }
    }

    /// Closes the call and waits for the workers inside.
    fn close_and_wait(&self, mut fetch: Fetch) {
        self.state.fetch_and(!OPEN, Ordering::AcqRel);
        let empty = || (self.state.load(Ordering::Acquire) & INSIDE == 0).then_some(());
        if spin(&empty, &mut fetch).is_none() {
            let mut guard = lock(&self.sleep);
            self.state.fetch_or(CALLER_SLEEPS, Ordering::AcqRel);
            while empty().is_none() {
                guard = self.wake_caller.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            self.state.fetch_and(!CALLER_SLEEPS, Ordering::AcqRel);
        }
    }
}

/// Polls until there is an answer or [`SPIN`] has passed, fetching meanwhile.
fn spin<T>(poll: &impl Fn() -> Option<T>, fetch: &mut Fetch) -> Option<T> {
    let mut deadline = None;
    loop {
        // The clock is read once in a while only: reading it takes about as long as the poll.
        for _ in 0..16 {
            if let Some(answer) = poll() {
                return Some(answer);
            }
            if !fetch.go_on() {
                std::hint::spin_loop();
            }
        }
        if Instant::now() > *deadline.get_or_insert_with(|| Instant::now() + SPIN) {
            return None;
        }
    }
}

/// Locks; a panic while locked leaves nothing half done here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
