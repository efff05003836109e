// Package expect is how tests wait for what must come.
//
//	expect.Eventually(t, func() error { return expect.Is("results", len(in.final()), 3) })
package expect

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// Patience is how long Eventually waits. It is for what must come: it is never waited out when all is well.
const Patience = 100 * time.Second

// Eventually asks until the answer is nil. When Patience is over it ends the test with the last answer.
func Eventually(t testing.TB, ask func() error) {
	t.Helper()
	EventuallyWithin(t, Patience, ask)
}

// EventuallyWithin is Eventually with another patience.
func EventuallyWithin(t testing.TB, limit time.Duration, ask func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("after %v still: %v", limit, err)
		case <-again.C:
		}
	}
}

// Is is an error when got is not want.
func Is[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s: %v, want %v", what, got, want)
	}
	return nil
}
