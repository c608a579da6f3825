//! Tests of a group: the items of a batch, its beginning and its end.

use std::{
    future::poll_fn,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    task::Poll,
};

use tokio::sync::{
    Semaphore,
    mpsc::{UnboundedReceiver, unbounded_channel},
};

use super::*;

/// The longest wait for an event that comes at once, on a slow and busy machine.
const WAIT_MAX: Duration = Duration::from_mins(1);

impl Item for usize {
    fn weight(&self) -> usize {
        1
    }

    fn is_awaited(&self) -> bool {
        *self >= AWAITED
    }
}

/// Items from this number on are awaited.
const AWAITED: usize = 100;

/// Makes a gathering group of two tasks. Its batches begin at once, and each ends with a permit of
/// the breakpoint.
fn gathering(
    batch_max: usize,
) -> (Arc<Group<usize>>, UnboundedReceiver<Vec<usize>>, Arc<Semaphore>) {
    let (ran, batches) = unbounded_channel();
    let breakpoint = Arc::new(Semaphore::new(0));
    let breakpoint_of_batches = Arc::clone(&breakpoint);
    let run = move |batch: Vec<usize>| {
        let (breakpoint, ran) = (Arc::clone(&breakpoint_of_batches), ran.clone());
        Box::pin(async move {
            ran.send(batch).unwrap();
            breakpoint.acquire().await.unwrap().forget();
        }) as _
    };
    let group = Group::new(batch_max, 2, Box::new(run));
    group.set_gathering(true);
    (group, batches, breakpoint)
}

/// Lets all other tasks go on as far as they can.
async fn others_first() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

async fn next(batches: &mut UnboundedReceiver<Vec<usize>>) -> Vec<usize> {
    tokio::time::timeout(WAIT_MAX, batches.recv()).await.unwrap().expect("a batch")
}

#[tokio::test(start_paused = true)]
async fn what_nobody_awaits_is_left_for_one_larger_batch() {
    let (group, mut batches, breakpoint) = gathering(usize::MAX);
    group.submit(1);
    assert_eq!(next(&mut batches).await, [1]);
    group.submit(2);
    group.submit(3);
    others_first().await;
    assert!(batches.try_recv().is_err(), "a second batch beside the first");
    breakpoint.add_permits(1);
    assert_eq!(next(&mut batches).await, [2, 3]);
    // The batch of a group that does not gather begins at once.
    group.submit(4);
    group.set_gathering(false);
    assert_eq!(next(&mut batches).await, [4]);
}

#[tokio::test(start_paused = true)]
async fn what_is_awaited_and_what_came_with_it_waits_for_no_other_batch() {
    let (group, mut batches, breakpoint) = gathering(usize::MAX);
    group.submit(1);
    assert_eq!(next(&mut batches).await, [1]);
    group.submit(2);
    group.submit(AWAITED);
    assert_eq!(next(&mut batches).await, [2, AWAITED]);
    // When no item is awaited any more, one of the two tasks is too many. The other one goes on.
    group.submit(3);
    breakpoint.add_permits(2);
    assert_eq!(next(&mut batches).await, [3]);
    group.submit(4);
    breakpoint.add_permits(1);
    assert_eq!(next(&mut batches).await, [4]);
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_waits_for_no_other() {
    let (group, mut batches, breakpoint) = gathering(2);
    group.submit(1);
    assert_eq!(next(&mut batches).await, [1]);
    group.submit(2);
    group.submit(3);
    assert_eq!(next(&mut batches).await, [2, 3]);
    breakpoint.add_permits(2);
    others_first().await;
    assert!(matches!(&*group.lock(), State { tasks: 0, weight: 0, awaited: 0, .. }));
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_for_a_batch_that_takes_long() {
    let (group, mut batches, breakpoint) = gathering(usize::MAX);
    group.submit(1);
    assert_eq!(next(&mut batches).await, [1]);
    group.submit(2);
    // The clock of a paused runtime goes on when no task can run.
    assert_eq!(next(&mut batches).await, [2]);
    breakpoint.add_permits(2);
    others_first().await;
    assert!(matches!(&*group.lock(), State { tasks: 0, slow: 0, .. }));
}

/// A task that is always ready, and submits one item more each time, would be let go first for
/// ever.
#[tokio::test]
async fn a_batch_does_not_wait_for_tasks_that_are_always_ready() {
    const ITEMS_MAX: usize = 3_000_000;
    let began = Arc::new(AtomicBool::new(false));
    let run = {
        let began = Arc::clone(&began);
        move |_batch: Vec<usize>| {
            began.store(true, Ordering::Relaxed);
            Box::pin(async {}) as _
        }
    };
    let group = Group::new(usize::MAX, 1, Box::new(run));
    // This is a task of its own, so it alternates with the task that drains.
    let submitted = tokio::spawn(async move {
        let mut submitted = 0;
        poll_fn(|cx| {
            if began.load(Ordering::Relaxed) || submitted == ITEMS_MAX {
                return Poll::Ready(submitted);
            }
            group.submit(submitted);
            submitted += 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    });
    assert!(submitted.await.unwrap() < ITEMS_MAX, "it waited for all of them");
}

/// The thread of the draining task computes for long, so another thread takes the task over.
#[test]
fn a_batch_does_not_wait_for_a_task_that_computes() {
    let two = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    let (ran, batch_ran) = mpsc::channel();
    let run = move |_batch: Vec<usize>| {
        let _ = ran.send(());
        Box::pin(async {}) as _
    };
    let group = Group::new(usize::MAX, 1, Box::new(run));
    // One thread is kept busy until the other one computes, so it takes no task before that.
    let (busy, is_busy) = mpsc::channel();
    let (computes, other_computes) = mpsc::channel();
    two.spawn(async move {
        busy.send(()).unwrap();
        other_computes.recv_timeout(WAIT_MAX).unwrap();
    });
    is_busy.recv_timeout(WAIT_MAX).unwrap();
    let (told, seen) = mpsc::channel();
    two.spawn(async move {
        // A thread first runs the task that was spawned last: the draining task, and then this one.
        tokio::spawn(async move {
            computes.send(()).unwrap();
            told.send(batch_ran.recv_timeout(WAIT_MAX)).unwrap();
        });
        group.submit(1);
    });
    assert_eq!(seen.recv().unwrap(), Ok(()), "the batch ran while the thread computed");
}

#[tokio::test]
async fn what_is_queued_behind_a_batch_that_panics_is_drained() {
    let (ran, mut batches) = unbounded_channel();
    let breakpoint = Arc::new(Semaphore::new(0));
    let first = AtomicUsize::new(0);
    let run = {
        let breakpoint = Arc::clone(&breakpoint);
        move |batch: Vec<usize>| {
            let (breakpoint, ran) = (Arc::clone(&breakpoint), ran.clone());
            let panics = first.fetch_add(1, Ordering::Relaxed) == 0;
            Box::pin(async move {
                ran.send(batch).unwrap();
                breakpoint.acquire().await.unwrap().forget();
                assert!(!panics, "the first batch panics, as the test has it");
            }) as _
        }
    };
    let group = Group::new(1, 1, Box::new(run));
    group.submit(1);
    assert_eq!(batches.recv().await, Some(vec![1]));
    // The panic comes after all items were submitted.
    group.submit(2);
    group.submit(3);
    breakpoint.add_permits(3);
    for rest in [2, 3] {
        let batch = tokio::time::timeout(WAIT_MAX, batches.recv()).await;
        assert_eq!(batch.expect("a task drains the queue"), Some(vec![rest]));
    }
    let ended = poll_fn(|cx| {
        cx.waker().wake_by_ref();
        if group.lock().tasks == 0 { Poll::Ready(()) } else { Poll::Pending }
    });
    tokio::time::timeout(WAIT_MAX, ended).await.expect("the place is given up once");
}

/// A client outlives the runtime that it was used on first.
#[test]
fn a_runtime_that_ends_leaves_the_group_usable() {
    let (ran, mut batches) = unbounded_channel();
    let run = move |batch: Vec<usize>| {
        let ran = ran.clone();
        Box::pin(async move {
            let hangs = batch == [1];
            ran.send(batch).unwrap();
            if hangs {
                std::future::pending::<()>().await;
            }
        }) as _
    };
    let group = Group::new(1, 1, Box::new(run));
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let gone = runtime();
    gone.block_on(async {
        group.submit(1);
        assert_eq!(batches.recv().await, Some(vec![1]));
        group.submit(2);
    });
    drop(gone);
    runtime().block_on(async {
        group.submit(3);
        for rest in [2, 3] {
            let batch = tokio::time::timeout(WAIT_MAX, batches.recv()).await;
            assert_eq!(batch.expect("a task drains the queue"), Some(vec![rest]));
        }
    });
}
