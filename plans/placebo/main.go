// Placebo does next to nothing, in every way in which an instance can end: for tests of Testground itself.
package main

import (
	"context"
	"errors"
	"os"

	"github.com/testground/sdk-go/run"
	"github.com/testground/sdk-go/runtime"
)

func main() {
	run.InvokeMap(map[string]interface{}{
		"ok":         run.InitializedTestCaseFn(ok),
		"fail":       run.InitializedTestCaseFn(fail),
		"panic":      run.InitializedTestCaseFn(crash),
		"stall":      run.InitializedTestCaseFn(stall),
		"exit-code":  run.InitializedTestCaseFn(exit),
		"no-outcome": run.InitializedTestCaseFn(silent),
	})
}

func ok(*runtime.RunEnv, *run.InitContext) error {
	return nil
}

func fail(*runtime.RunEnv, *run.InitContext) error {
	return errors.New("this case always fails")
}

func crash(*runtime.RunEnv, *run.InitContext) error {
	panic("this case always panics")
}

// Everybody waits for one signal more than there are instances.
func stall(env *runtime.RunEnv, init *run.InitContext) error {
	_, err := init.SyncClient.SignalAndWait(context.Background(), "never", env.TestInstanceCount+1)
	return err
}

func exit(env *runtime.RunEnv, _ *run.InitContext) error {
	os.Exit(env.IntParam("code"))
	return nil
}

func silent(*runtime.RunEnv, *run.InitContext) error {
	os.Exit(0)
	return nil
}
