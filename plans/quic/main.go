// Quic fetches over QUIC and holds what it sees against the link that was declared.
package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"net"
	"os"
	"os/exec"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	port     = 4433
	protocol = "testground-quic"
	pings    = 21
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	role := serve
	if os.Getenv("TEST_GROUP_ID") == "client" {
		role = fetch
	}
	if err := role(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Answers until every client has what it wants. On each stream eight bytes say how much is wanted; they are sent back, and then as
// many bytes follow.
func serve(ctx context.Context) error {
	config, err := certificate()
	if err != nil {
		return err
	}
	listener, err := quic.ListenAddr(fmt.Sprintf(":%d", port), config, nil)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := listener.Accept(ctx)
			if err != nil {
				return
			}
			go answer(ctx, conn)
		}
	}()
	if err := signal(ctx, "listening"); err != nil {
		return err
	}
	clients, err := strconv.Atoi(os.Getenv("TEST_INSTANCE_COUNT"))
	if err != nil {
		return err
	}
	return barrier(ctx, "fetched", clients-1)
}

func answer(ctx context.Context, conn *quic.Conn) {
	for {
		stream, err := conn.AcceptStream(ctx)
		if err != nil {
			return
		}
		go func() {
			defer stream.Close()
			want := make([]byte, 8)
			for {
				if _, err := io.ReadFull(stream, want); err != nil {
					return
				}
				if _, err := stream.Write(want); err != nil {
					return
				}
				if _, err := io.CopyN(stream, zeros{}, int64(binary.BigEndian.Uint64(want))); err != nil {
					return
				}
			}
		}()
	}
}

// Measures the handshake, the round trip and the goodput, and says what is not as declared.
func fetch(ctx context.Context) error {
	latency, tolerance := number("latency_ms"), number("tolerance_ms")
	bandwidth, bytes := number("bandwidth"), number("bytes")
	address, err := lookup("server-0")
	if err != nil {
		return err
	}
	if err := barrier(ctx, "listening", 1); err != nil {
		return err
	}
	// Whom it talks to is settled by the lab.
	insecure := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}}
	began := time.Now()
	conn, err := quic.DialAddr(ctx, net.JoinHostPort(address, fmt.Sprint(port)), insecure, nil)
	if err != nil {
		return fmt.Errorf("no connection: %w", err)
	}
	handshake := millis(time.Since(began))
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return err
	}
	var took []float64
	for range pings {
		began := time.Now()
		if err := ask(stream, 0); err != nil {
			return err
		}
		took = append(took, millis(time.Since(began)))
	}
	sort.Float64s(took)
	roundTrip := took[pings/2]

	began = time.Now()
	if err := ask(stream, uint64(bytes)); err != nil {
		return err
	}
	// The second half alone: the first has the slow start in it.
	if _, err := io.CopyN(io.Discard, stream, int64(bytes/2)); err != nil {
		return err
	}
	began = time.Now()
	rest, err := io.CopyN(io.Discard, stream, int64(bytes)-int64(bytes/2))
	if err != nil {
		return err
	}
	goodput := float64(rest) * 8 / time.Since(began).Seconds()
	fmt.Printf("handshake_ms=%.3f rtt_ms=%.3f goodput=%.0f\n", handshake, roundTrip, goodput)

	var off []error
	if math.Abs(roundTrip-2*latency) > tolerance {
		off = append(off, fmt.Errorf("the round trip is %.2f ms where %.2f ms is declared", roundTrip, 2*latency))
	}
	if handshake < 2*latency {
		off = append(off, fmt.Errorf("the handshake took %.2f ms, less than a round trip", handshake))
	}
	if share := goodput / bandwidth; share < 0.8 || share > 1 {
		off = append(off, fmt.Errorf("the goodput is %.1f %% of the bandwidth", share*100))
	}
	if err := signal(ctx, "fetched"); err != nil {
		return err
	}
	return errors.Join(off...)
}

func ask(stream *quic.Stream, bytes uint64) error {
	want := make([]byte, 8)
	binary.BigEndian.PutUint64(want, bytes)
	if _, err := stream.Write(want); err != nil {
		return err
	}
	_, err := io.ReadFull(stream, want)
	return err
}

// A certificate that is good for one run.
func certificate() (*tls.Config, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		return nil, err
	}
	chain := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
	return &tls.Config{Certificates: []tls.Certificate{chain}, NextProtos: []string{protocol}}, nil
}

// The address of an instance on the data network.
func lookup(host string) (string, error) {
	file, err := os.Open("/etc/hosts")
	if err != nil {
		return "", err
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && fields[1] == host {
			return fields[0], nil
		}
	}
	return "", fmt.Errorf("/etc/hosts has no %s", host)
}

func number(name string) float64 {
	for _, param := range strings.Split(os.Getenv("TEST_INSTANCE_PARAMS"), "|") {
		if key, value, found := strings.Cut(param, "="); found && key == name {
			if number, err := strconv.ParseFloat(value, 64); err == nil {
				return number
			}
		}
	}
	fmt.Fprintf(os.Stderr, "there is no number %q among the parameters\n", name)
	os.Exit(2)
	return 0
}

func signal(ctx context.Context, state string) error {
	return exec.CommandContext(ctx, "testground", "sync", "signal", state).Run()
}

func barrier(ctx context.Context, state string, count int) error {
	return exec.CommandContext(ctx, "testground", "sync", "barrier", state, fmt.Sprint(count)).Run()
}

func millis(took time.Duration) float64 {
	return float64(took) / float64(time.Millisecond)
}

type zeros struct{}

func (zeros) Read(buffer []byte) (int, error) {
	clear(buffer)
	return len(buffer), nil
}
