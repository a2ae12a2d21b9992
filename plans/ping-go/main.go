// Ping-go asks the network for a shape through the SDK and measures, over TCP and UDP, whether it got it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sort"
	"time"

	"github.com/testground/sdk-go/network"
	"github.com/testground/sdk-go/run"
	"github.com/testground/sdk-go/runtime"
	"github.com/testground/sdk-go/sync"
)

const port = 7400

// A peer as it announces itself.
type peer struct {
	Seq  int64
	Addr string
}

var peers = sync.NewTopic("peers", &peer{})

func main() {
	run.InvokeMap(map[string]interface{}{
		"ping": run.InitializedTestCaseFn(ping),
	})
}

func ping(env *runtime.RunEnv, init *run.InitContext) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	latency := time.Duration(env.FloatParam("latency_ms") * float64(time.Millisecond))
	tolerance := time.Duration(env.FloatParam("tolerance_ms") * float64(time.Millisecond))
	probes := env.IntParam("probes")

	config := &network.Config{
		Network:       network.DefaultDataNetwork,
		Enable:        true,
		Default:       network.LinkShape{Latency: latency, Bandwidth: uint64(env.IntParam("bandwidth"))},
		CallbackState: "network-configured",
		RoutingPolicy: network.DenyAll,
	}
	if err := init.NetClient.ConfigureNetwork(ctx, config); err != nil {
		return fmt.Errorf("network not configured: %w", err)
	}

	ip, err := init.NetClient.GetDataNetworkIP()
	if err != nil {
		return err
	}
	if err := echo(ip); err != nil {
		return err
	}
	others, err := meet(ctx, env, init, ip)
	if err != nil {
		return err
	}
	if _, err := init.SyncClient.SignalAndWait(ctx, "listening", env.TestInstanceCount); err != nil {
		return err
	}

	// Everybody measures at the same time, and stays until everybody has: a peer that left would not answer.
	var failed error
	for _, other := range others {
		for _, protocol := range []string{"tcp", "udp"} {
			took, err := fairly(2*latency, tolerance, func() (time.Duration, error) {
				return measure(ctx, protocol, other.Addr, probes)
			})
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s to instance %d: %w", protocol, other.Seq, err))
				continue
			}
			env.R().RecordPoint(fmt.Sprintf("round_trip_ms,protocol=%s", protocol), float64(took)/float64(time.Millisecond))
			env.RecordMessage("%s to instance %d: round trip %v, asked for %v", protocol, other.Seq, took, 2*latency)
			if off := apart(took, 2*latency); off > tolerance {
				failed = errors.Join(failed, fmt.Errorf("%s to instance %d: round trip %v is %v off", protocol, other.Seq, took, off))
			}
		}
	}
	if failed != nil {
		return failed
	}
	_, err = init.SyncClient.SignalAndWait(ctx, "measured", env.TestInstanceCount)
	return err
}

// Answers whatever is sent to this instance.
func echo(ip net.IP) error {
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: ip, Port: port})
	if err != nil {
		return err
	}
	packets, err := net.ListenUDP("udp4", &net.UDPAddr{IP: ip, Port: port})
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	go func() {
		buffer := make([]byte, 2048)
		for {
			n, from, err := packets.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo(buffer[:n], from)
		}
	}()
	return nil
}

// Announces this instance and waits for all the others.
func meet(ctx context.Context, env *runtime.RunEnv, init *run.InitContext, ip net.IP) ([]*peer, error) {
	addr := net.JoinHostPort(ip.String(), fmt.Sprint(port))
	arrivals := make(chan *peer)
	_, sub, err := init.SyncClient.PublishSubscribe(ctx, peers, &peer{init.GlobalSeq, addr}, arrivals)
	if err != nil {
		return nil, err
	}
	var others []*peer
	for met := 0; met < env.TestInstanceCount; met++ {
		select {
		case p := <-arrivals:
			if p.Seq != init.GlobalSeq {
				others = append(others, p)
			}
		case err := <-sub.Done():
			return nil, fmt.Errorf("met %d of %d: %w", met, env.TestInstanceCount, err)
		}
	}
	return others, nil
}

// Measures again, a few times, before a result counts as wrong: a machine that is busy with something else delays
// everything for a while, a wrong shape is wrong every time.
func fairly(asked, tolerance time.Duration, measure func() (time.Duration, error)) (time.Duration, error) {
	best, err := measure()
	for again := 0; again < 4 && err == nil && apart(best, asked) > tolerance; again++ {
		var took time.Duration
		if took, err = measure(); err == nil && apart(took, asked) < apart(best, asked) {
			best = took
		}
	}
	return best, err
}

func apart(a, b time.Duration) time.Duration {
	return time.Duration(math.Abs(float64(a - b)))
}

// The median round trip of some pings over one connection.
func measure(ctx context.Context, protocol, addr string, probes int) (time.Duration, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, protocol+"4", addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	var took []time.Duration
	buffer := make([]byte, 64)
	for i := 0; i < probes; i++ {
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return 0, err
		}
		sent := time.Now()
		if _, err := conn.Write(buffer); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(conn, buffer); err != nil {
			return 0, err
		}
		took = append(took, time.Since(sent))
	}
	sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })
	return took[len(took)/2], nil
}
