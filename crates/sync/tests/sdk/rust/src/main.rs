//! The calls of the published Rust SDK, against the service under test. Ends with "all well" or panics.

use std::borrow::Cow;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::json;
use testground::client::Client;

#[tokio::main]
async fn main() {
    // Connects, waits for the network, and signals and waits for both of its numbers.
    let client = Client::new_and_init().await.unwrap();
    assert_eq!((client.global_seq(), client.group_seq()), (1, 1));

    // Signals and barriers.
    assert_eq!(client.signal("rust-ready").await.unwrap(), 1);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.barrier("rust-ready", 2).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished(), "released with one of two");
    assert_eq!(client.signal_and_wait("rust-ready", 2).await.unwrap(), 2);
    waiting.await.unwrap().unwrap();

    // Topics: from the first item, in order, each once.
    let item = |n: u64| json!({"n": n, "odd": "quote \" backslash \\ control \u{1} é 😀"});
    for n in 1..=100 {
        assert_eq!(client.publish("rust-items", Cow::Owned(item(n))).await.unwrap(), n);
    }
    let mut items = Box::pin(client.subscribe("rust-items", 1000).await);
    for n in 1..=100 {
        assert_eq!(items.next().await.unwrap().unwrap(), item(n));
    }
    assert_eq!(client.publish("rust-items", Cow::Owned(item(101))).await.unwrap(), 101);
    assert_eq!(items.next().await.unwrap().unwrap(), item(101));

    // What is refused is an error, and the connection stays. The SDK panics on an error that is no JSON.
    let oversized = client.publish("rust-items", Cow::Owned(json!("x".repeat(40_000)))).await;
    let error = oversized.unwrap_err().to_string();
    assert!(error.contains("message_bytes"), "{error}");
    assert_eq!(client.signal("rust-after").await.unwrap(), 1);

    client.record_success().await.unwrap();
    println!("all well");
}
