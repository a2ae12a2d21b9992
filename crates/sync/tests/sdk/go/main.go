// The calls of the published Go SDK, against the service under test. Ends with "all well" or panics.
package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/testground/sdk-go/runtime"
	"github.com/testground/sdk-go/sync"
)

type item struct {
	From string
	N    int
	Odd  string
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func check(ok bool, format string, args ...interface{}) {
	if !ok {
		panic(fmt.Sprintf(format, args...))
	}
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	env := runtime.CurrentRunEnv()
	a, b := sync.MustBoundClient(ctx, env), sync.MustBoundClient(ctx, env)

	// Signals and barriers.
	ready := sync.State("go-ready")
	check(a.MustSignalEntry(ctx, ready) == 1, "first signal")
	barrier := b.MustBarrier(ctx, ready, 2)
	select {
	case err := <-barrier.C:
		panic(fmt.Sprintf("released with one of two: %v", err))
	case <-time.After(50 * time.Millisecond):
	}
	check(a.MustSignalAndWait(ctx, ready, 2) == 2, "second signal")
	must(<-barrier.C)
	must(<-b.MustBarrier(ctx, ready, 0).C)
	must(<-b.MustBarrier(ctx, ready, 1).C)

	// Topics: from the first item, in order, each once.
	topic := sync.NewTopic("go-items", item{})
	odd := "quote \" backslash \\ control \u0001 é 😀 <&>"
	for n := 1; n <= 100; n++ {
		check(a.MustPublish(ctx, topic, item{"a", n, odd}) == int64(n), "number of item %d", n)
	}
	items := make(chan item, 8)
	b.MustSubscribe(ctx, topic, items)
	for n := 1; n <= 100; n++ {
		got := <-items
		check(got == item{"a", n, odd}, "item %d is %v", n, got)
	}
	more := make(chan item, 8)
	seq, _ := b.MustPublishSubscribe(ctx, topic, item{"b", 101, ""}, more)
	check(seq == 101, "number of the last item: %d", seq)
	for n := 1; n <= 101; n++ {
		check((<-more).N == n, "item %d of the second subscription", n)
	}
	check((<-items).From == "b", "the item of b at the first subscription")

	// Publish and wait, as for a change of the network.
	go func() {
		asked := make(chan item, 1)
		b.MustSubscribe(ctx, sync.NewTopic("go-network", item{}), asked)
		<-asked
		b.MustSignalEntry(ctx, "go-configured")
	}()
	a.MustPublishAndWait(ctx, sync.NewTopic("go-network", item{}), item{}, "go-configured", 1)

	// Events.
	events, err := a.SubscribeEvents(ctx, &env.RunParams)
	must(err)
	must(b.SignalEvent(ctx, &runtime.Event{SuccessEvent: &runtime.SuccessEvent{TestGroupID: "single"}}))
	check((<-events).SuccessEvent.TestGroupID == "single", "the event")

	// What is refused is an error, and the connection stays.
	_, err = a.Publish(ctx, topic, item{"a", 0, strings.Repeat("x", 40000)})
	check(err != nil && strings.Contains(err.Error(), "message_bytes"), "an oversized item: %v", err)
	check(a.MustSignalEntry(ctx, "go-after") == 1, "a signal after it")

	must(a.Close())
	must(b.Close())
	fmt.Println("all well")
}
