//! Threads that visit network namespaces, so that no task's thread ever blocks or changes its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use testground_linux::netns::{Tour, tour};
use tokio::sync::oneshot;

use super::LabError;

type Job = Box<dyn FnOnce(&mut Tour) + Send>;

/// The threads. They end when this is dropped and what was begun is done.
#[derive(Debug)]
pub(super) struct Workers {
    jobs: Sender<Job>,
}

/// Two keep both of netlink's ends busy; more of them wait for each other at the kernel's one lock for interfaces.
const THREADS: usize = 2;

// === impl Workers ===

impl Workers {
    pub(super) fn start() -> Result<Workers, LabError> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let inbox = Arc::new(Mutex::new(inbox));
        for _ in 0..THREADS {
            let inbox = Arc::clone(&inbox);
            let thread = std::thread::Builder::new().name("network".to_owned());
            let work = move || {
                // Without its thread the jobs are dropped, which whoever waits for them is told by.
                if let Err(e) = tour(|tour| work(tour, &inbox)) {
                    tracing::error!("no thread for network namespaces: {e}");
                }
            };
            thread.spawn(work).map_err(|e| LabError::machine("failed to start a thread".to_owned(), &e))?;
        }
        Ok(Workers { jobs })
    }

    /// Runs a job on one of the threads; `None` when it panicked, or none of them is left.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Tour) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, result) = oneshot::channel();
        let job = move |tour: &mut Tour| {
            // Whoever asked may be gone by now.
            let _ = answer.send(job(tour));
        };
        self.jobs.send(Box::new(job)).ok()?;
        result.await.ok()
    }
}

fn work(tour: &mut Tour, inbox: &Mutex<Receiver<Job>>) {
    loop {
        let job = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        if catch_unwind(AssertUnwindSafe(|| job(tour))).is_err() {
            tracing::error!("a job of the lab's network panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_and_the_threads_go_on() {
        let workers = Workers::start().unwrap();
        for _ in 0..2 * THREADS {
            assert_eq!(workers.run(|_| -> u32 { panic!("on purpose") }).await, None);
        }
        assert_eq!(workers.run(|_| 7).await, Some(7));
    }

    #[tokio::test]
    async fn jobs_run_side_by_side_off_the_calling_thread() {
        let workers = Arc::new(Workers::start().unwrap());
        let barrier = Arc::new(std::sync::Barrier::new(THREADS));
        let caller = std::thread::current().id();
        let jobs = (0..THREADS).map(|_| {
            let (workers, barrier) = (Arc::clone(&workers), Arc::clone(&barrier));
            tokio::spawn(async move {
                workers
                    .run(move |_| {
                        barrier.wait();
                        std::thread::current().id()
                    })
                    .await
            })
        });
        for job in jobs.collect::<Vec<_>>() {
            assert_ne!(job.await.unwrap().expect("a thread"), caller);
        }
    }
}
