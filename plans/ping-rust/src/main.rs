//! Asks the network for a shape through the SDK and measures, over TCP and UDP, whether it got it.

use std::borrow::Cow;
use std::error::Error;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::json;
use testground::client::Client;
use testground::network_conf::{
    FilterAction, LinkShape, NetworkConfiguration, RoutingPolicyType, DEFAULT_DATA_NETWORK,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_stream::StreamExt;

const PORT: u16 = 7400;
const PATIENCE: Duration = Duration::from_secs(10);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    // Waits for the network, and until every instance of the run has signalled `initialized_global`.
    let client = Client::new_and_init().await?;
    match ping(&client).await {
        Ok(()) => client.record_success().await?,
        Err(e) => client.record_failure(e.to_string()).await?,
    }
    Ok(())
}

async fn ping(client: &Client) -> Result<()> {
    let params = client.run_parameters();
    let number = |name: &str| -> Result<f64> {
        let text = params.test_instance_params.get(name).ok_or(format!("no parameter {name}"))?;
        text.parse().map_err(|e| format!("parameter {name}: {text}: {e}").into())
    };
    let latency = Duration::from_secs_f64(number("latency_ms")? / 1e3);
    let tolerance = Duration::from_secs_f64(number("tolerance_ms")? / 1e3);
    let probes = number("probes")? as usize;

    client
        .configure_network(NetworkConfiguration {
            network: DEFAULT_DATA_NETWORK.to_owned(),
            ipv4: None,
            ipv6: None,
            enable: true,
            default: LinkShape {
                latency: latency.as_nanos() as u64,
                jitter: 0,
                bandwidth: number("bandwidth")? as u64,
                filter: FilterAction::Accept,
                loss: 0.0,
                corrupt: 0.0,
                corrupt_corr: 0.0,
                reorder: 0.0,
                reorder_corr: 0.0,
                duplicate: 0.0,
                duplicate_corr: 0.0,
            },
            rules: None,
            callback_state: "network-configured".to_owned(),
            callback_target: Some(params.test_instance_count),
            routing_policy: RoutingPolicyType::DenyAll,
        })
        .await?;

    let ip = params.data_network_ip()?.ok_or("no address in the data network")?;
    echo(ip).await?;
    let others = meet(client, ip, params.test_instance_count).await?;
    client.signal_and_wait("listening", params.test_instance_count).await?;

    // Everybody measures at the same time, and stays until everybody has: a peer that left would not answer.
    let mut failed = Vec::new();
    for (seq, addr) in others {
        for protocol in ["tcp", "udp"] {
            let to = format!("{protocol} to instance {seq}");
            match fairly(2 * latency, tolerance, || measure(protocol, addr, probes)).await {
                Err(e) => failed.push(format!("{to}: {e}")),
                Ok(took) => {
                    client.record_message(format!("{to}: round trip {took:?}, asked for {:?}", 2 * latency));
                    let off = took.abs_diff(2 * latency);
                    if off > tolerance {
                        failed.push(format!("{to}: round trip {took:?} is {off:?} off"));
                    }
                }
            }
        }
    }
    if !failed.is_empty() {
        return Err(failed.join("; ").into());
    }
    client.signal_and_wait("measured", params.test_instance_count).await?;
    Ok(())
}

/// Answers whatever is sent to this instance.
async fn echo(ip: IpAddr) -> Result<()> {
    let listener = TcpListener::bind((ip, PORT)).await?;
    let packets = UdpSocket::bind((ip, PORT)).await?;
    tokio::spawn(async move {
        while let Ok((mut conn, _)) = listener.accept().await {
            let _ = conn.set_nodelay(true);
            tokio::spawn(async move {
                let (mut from, mut to) = conn.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((n, from)) = packets.recv_from(&mut buffer).await {
            let _ = packets.send_to(&buffer[..n], from).await;
        }
    });
    Ok(())
}

/// Announces this instance and waits for all the others. `Seq` and `Addr` are what the plans in the other languages say.
async fn meet(client: &Client, ip: IpAddr, count: u64) -> Result<Vec<(u64, SocketAddr)>> {
    let own = client.global_seq();
    let announced = json!({ "Seq": own, "Addr": SocketAddr::new(ip, PORT).to_string() });
    client.publish("peers", Cow::Owned(announced)).await?;
    let mut arrivals = Box::pin(client.subscribe("peers", 1000).await);
    let mut others = Vec::new();
    for met in 0..count {
        let peer = arrivals.next().await.ok_or(format!("met {met} of {count}"))??;
        let (Some(seq), Some(addr)) = (peer["Seq"].as_u64(), peer["Addr"].as_str()) else {
            return Err(format!("no peer: {peer}").into());
        };
        if seq != own {
            others.push((seq, addr.parse()?));
        }
    }
    Ok(others)
}

/// Measures again, a few times, before a result counts as wrong: a machine that is busy with something else delays
/// everything for a while, a wrong shape is wrong every time.
async fn fairly<F: Future<Output = Result<Duration>>>(
    asked: Duration,
    tolerance: Duration,
    measure: impl Fn() -> F,
) -> Result<Duration> {
    let mut best = measure().await?;
    for _ in 0..4 {
        if best.abs_diff(asked) <= tolerance {
            break;
        }
        let took = measure().await?;
        if took.abs_diff(asked) < best.abs_diff(asked) {
            best = took;
        }
    }
    Ok(best)
}

/// The median round trip of some pings over one connection.
async fn measure(protocol: &str, addr: SocketAddr, probes: usize) -> Result<Duration> {
    let mut took = Vec::new();
    let mut buffer = [0; 64];
    if protocol == "tcp" {
        let mut conn = timeout(PATIENCE, TcpStream::connect(addr)).await??;
        conn.set_nodelay(true)?;
        for _ in 0..probes {
            let sent = Instant::now();
            conn.write_all(&buffer).await?;
            timeout(PATIENCE, conn.read_exact(&mut buffer)).await??;
            took.push(sent.elapsed());
        }
    } else {
        let unbound: SocketAddr = ([0, 0, 0, 0], 0).into();
        let socket = UdpSocket::bind(unbound).await?;
        socket.connect(addr).await?;
        for _ in 0..probes {
            let sent = Instant::now();
            socket.send(&buffer).await?;
            timeout(PATIENCE, socket.recv(&mut buffer)).await??;
            took.push(sent.elapsed());
        }
    }
    took.sort();
    took.get(probes / 2).copied().ok_or_else(|| "no probes".into())
}
