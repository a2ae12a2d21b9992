//! The same random history on a plain model, on the memory store, and on two services over one Redis.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use testground_sync::SyncHandle;
use testground_sync::client::{Client, Subscription};
use tokio::task::JoinHandle;

use crate::support::{LocalService, PATIENCE, RedisServer, client};

/// A step of a history. Numbers choose among a few names, clients and earlier steps.
#[derive(Debug, Clone)]
enum Step {
    Signal {
        by: usize,
        state: u8,
    },
    Publish {
        by: usize,
        topic: u8,
    },
    Barrier {
        by: usize,
        state: u8,
        target: u64,
    },
    Subscribe {
        by: usize,
        topic: u8,
        after: u64,
    },
    /// What the nth open subscription has now is read.
    Read {
        nth: usize,
    },
    /// The nth open subscription ends.
    Drop {
        nth: usize,
    },
}

/// What must come of it: counts and lists.
#[derive(Default)]
struct Model {
    counts: HashMap<u8, u64>,
    topics: HashMap<u8, Vec<String>>,
}

struct World {
    clients: Vec<Client>,
    handles: Vec<SyncHandle>,
    prefix: String,
    model: Model,
    waits: Vec<(u8, u64, JoinHandle<()>)>,
    subscriptions: Vec<(u8, u64, Subscription)>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..4usize, 0..3u8).prop_map(|(by, state)| Step::Signal { by, state }),
        4 => (0..4usize, 0..3u8).prop_map(|(by, topic)| Step::Publish { by, topic }),
        3 => (0..4usize, 0..3u8, 0..6u64).prop_map(|(by, state, target)| Step::Barrier { by, state, target }),
        3 => (0..4usize, 0..3u8, 0..4u64).prop_map(|(by, topic, after)| Step::Subscribe { by, topic, after }),
        2 => (0..8usize).prop_map(|nth| Step::Read { nth }),
        1 => (0..8usize).prop_map(|nth| Step::Drop { nth }),
    ];
    prop::collection::vec(step, 1..40)
}

#[test]
fn the_memory_store_answers_as_the_model() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let service = runtime.block_on(LocalService::in_memory(Default::default()));
    check(&runtime, &[service], 128);
}

#[test]
fn two_services_over_one_redis_answer_as_the_model() {
    let Some(redis) = RedisServer::start("two_services_over_one_redis_answer_as_the_model") else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let services = runtime
        .block_on(async { [LocalService::over(&redis.url()).await, LocalService::over(&redis.url()).await] });
    check(&runtime, &services, 64);
}

fn check(runtime: &tokio::runtime::Runtime, services: &[LocalService], cases: u32) {
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 12,
        ..Config::default()
    });
    let case = std::cell::Cell::new(0);
    let clients = runtime.block_on(async {
        let mut clients = Vec::new();
        for n in 0..4 {
            clients.push(client(services[n % services.len()].address, &format!("c{n}")).await);
        }
        clients
    });
    let result = runner.run(&steps(), |steps| {
        case.set(case.get() + 1);
        runtime.block_on(async {
            let mut world = World {
                clients: clients.clone(),
                handles: services.iter().map(|s| s.handle.clone()).collect(),
                prefix: format!("run:case{}:plan:p:case:c", case.get()),
                model: Model::default(),
                waits: Vec::new(),
                subscriptions: Vec::new(),
            };
            for step in &steps {
                world.step(step).await?;
            }
            world.end().await
        })
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

impl World {
    async fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Signal { by, state } => {
                let seq = self.clients[by].signal(&self.state(state)).await.unwrap();
                let count = self.model.counts.entry(state).or_default();
                *count += 1;
                prop_assert_eq!(seq, *count);
                self.released(state).await?;
            }
            Step::Publish { by, topic } => {
                let items = self.model.topics.entry(topic).or_default();
                // Every kind of character that is written differently in JSON.
                let item = format!("{{\"n\": {}, \"odd\": \"\\\"\\u0001é\\n😀/\"}}", items.len());
                items.push(item.clone());
                let expected = items.len() as u64;
                let name = self.topic(topic);
                // By turns from a connection and from within a service.
                let seq = match by % 2 {
                    0 => self.clients[by].publish(&name, &item).await.unwrap(),
                    _ => {
                        let handle = &self.handles[by % self.handles.len()];
                        handle.publish("inside", &name, &item).await.unwrap()
                    }
                };
                prop_assert_eq!(seq, expected);
            }
            Step::Barrier { by, state, target } => {
                let (client, name) = (self.clients[by].clone(), self.state(state));
                let wait = tokio::spawn(async move { client.barrier(&name, target, None).await.unwrap() });
                self.waits.push((state, target, wait));
                self.released(state).await?;
            }
            Step::Subscribe { by, topic, after } => {
                let items = self.clients[by].subscribe(&self.topic(topic), after).await.unwrap();
                self.subscriptions.push((topic, after, items));
            }
            Step::Read { nth } => {
                if !self.subscriptions.is_empty() {
                    let nth = nth % self.subscriptions.len();
                    self.read(nth).await?;
                }
            }
            Step::Drop { nth } => {
                if !self.subscriptions.is_empty() {
                    let nth = nth % self.subscriptions.len();
                    self.subscriptions.swap_remove(nth);
                }
            }
        }
        Ok(())
    }

    /// Every wait that the count opens ends; the others go on.
    async fn released(&mut self, state: u8) -> Result<(), TestCaseError> {
        let count = self.model.counts.get(&state).copied().unwrap_or(0);
        let mut left = Vec::new();
        for (waits_for, target, wait) in self.waits.drain(..) {
            if waits_for == state && target <= count {
                let ended = tokio::time::timeout(PATIENCE, wait).await;
                prop_assert!(ended.is_ok(), "a wait for {} of {} does not end", target, count);
            } else {
                left.push((waits_for, target, wait));
            }
        }
        self.waits = left;
        Ok(())
    }

    /// The subscription has all that the model has, in order.
    async fn read(&mut self, nth: usize) -> Result<(), TestCaseError> {
        let (topic, seen, items) = &mut self.subscriptions[nth];
        let expected = self.model.topics.get(topic).map(Vec::as_slice).unwrap_or_default();
        while *seen < expected.len() as u64 {
            let item = tokio::time::timeout(PATIENCE, items.next()).await;
            let Ok(item) = item else { return Err(TestCaseError::fail("an item does not come")) };
            let item = item.unwrap();
            prop_assert_eq!(item.seq, *seen + 1);
            prop_assert_eq!(&item.json, &expected[*seen as usize]);
            *seen += 1;
        }
        Ok(())
    }

    async fn end(mut self) -> Result<(), TestCaseError> {
        for nth in 0..self.subscriptions.len() {
            self.read(nth).await?;
        }
        for (_, target, wait) in &self.waits {
            prop_assert!(!wait.is_finished(), "a wait for {} ended early", target);
            wait.abort();
        }
        Ok(())
    }

    fn state(&self, state: u8) -> String {
        format!("{}:states:s{state}", self.prefix)
    }

    fn topic(&self, topic: u8) -> String {
        format!("{}:topics:t{topic}", self.prefix)
    }
}
