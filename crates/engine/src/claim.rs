//! A run's claim on a sync service outside of its lab: its keys stay while it goes on, and may go when it is over.
//!
//! The lab's own service needs none of this: it ends with the lab.

use std::time::Duration;

use testground_model::name::RunId;
use testground_model::outside::Endpoint;
use testground_sync::client::{self, Address};

/// How long the service may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a claim is said again: a run may be quiet for longer than the service keeps what nobody claims.
const RENEW: Duration = Duration::from_secs(600);

/// A claim in force. [`Claim::release`] ends it; a client that is killed leaves it to the service's time for runs that
/// nobody claims.
#[derive(Debug)]
pub(crate) struct Claim {
    service: Endpoint,
    run: RunId,
    renewal: tokio::task::JoinHandle<()>,
}

// === impl Claim ===

impl Claim {
    /// Claims the run.
    ///
    /// # Errors
    /// The service can't be reached, or does not know of runs; in words, with its address.
    pub(crate) async fn take(service: &Endpoint, run: &RunId) -> Result<Claim, String> {
        let address = address(service);
        answered(service, client::claim(&address, run.as_str())).await?;
        let id = run.clone();
        let renewal = tokio::spawn(async move {
            loop {
                tokio::time::sleep(RENEW).await;
                if let Err(e) = client::claim(&address, id.as_str()).await {
                    tracing::warn!("the run's claim was not renewed: {e}");
                }
            }
        });
        Ok(Claim { service: service.clone(), run: run.clone(), renewal })
    }

    /// Marks the run as finished, however it ended.
    ///
    /// # Errors
    /// The service was not told; in words, with its address.
    pub(crate) async fn release(self) -> Result<(), String> {
        answered(&self.service, client::finish(&address(&self.service), self.run.as_str())).await
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

async fn answered<E: std::fmt::Display>(
    service: &Endpoint,
    asked: impl Future<Output = Result<(), E>>,
) -> Result<(), String> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(|e| format!("the sync service {service} can't be used: {e}")),
        Err(_) => Err(format!("the sync service {service} can't be used: no answer within {PATIENCE:?}")),
    }
}

fn address(service: &Endpoint) -> Address {
    Address { host: service.host.clone(), port: service.port }
}
