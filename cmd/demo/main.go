// Command demo shows the worker at work on one machine without any server
// running: it brings up NATS, Postgres and a strict imitation of Flex, runs two
// replicas of the worker as processes, sends them a mix of requests and prints
// what became of each.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	signal.Ignore(syscall.SIGPIPE) // who reads no further must not leave workers running
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		stop()
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	stay := flags.Bool("stay", false, "keep everything up at the end, until Ctrl-C")
	real := flags.Bool("real", false, "use Flex itself; needs TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN (or API key and secret), DEMO_WORKSPACE_SID, DEMO_WORKFLOW_SID, DEMO_FROM and DEMO_TO: it creates ONE real interaction")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%q is not understood: the demo takes flags alone (--help)", flags.Arg(0))
	}
	if _, err := newCast(*real, *stay); err != nil {
		return err // what --real needs, before anything is started
	}
	door, err := newDoor()
	if err != nil {
		return err
	}
	if *stay {
		fmt.Printf("The page, once the replicas run:  %s\n  name: yours   token: %s\n\n", door.page(), door.token)
	}
	w, err := start(ctx, *real, door)
	if err != nil {
		return err
	}
	defer w.stop()
	cast, err := newCast(*real, *stay) // its times count from now
	if err != nil {
		return err
	}

	fmt.Println("\nSending", len(cast), "messages; what each is there to show:")
	for _, e := range cast {
		fmt.Printf("  %-18s %s\n", e.name, e.shows)
	}
	fmt.Println()
	limit, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	answers, err := w.play(limit, cast)
	if err != nil {
		return w.failed(ctx, err)
	}
	if err := w.account(limit, cast, answers); err != nil {
		return w.failed(ctx, err)
	}
	if *stay {
		remove, err := w.explainStay(ctx)
		if err != nil {
			return err
		}
		defer remove()
		<-ctx.Done()
	}
	return nil
}
