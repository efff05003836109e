// Command soak lets three replicas of the worker run as processes through
// everything that may go wrong at once, and then holds the account: every
// request answered once, none created twice, as the endpoint's own ledger says.
//
//	main.go      flags, the course of a run
//	world.go     the servers, the proxies between each pair, the replicas
//	replica.go   one process: started, killed, stopped, restarted, its log kept
//	queue.go     NATS as a process that can be killed
//	orphan.go    no process outlives the soak
//	traffic.go   the senders: requests, repeats, conflicts, nonsense
//	nemesis.go   what strikes, when, and how it heals
//	deck.go      everything that can strike
//	book.go      what was asked, what was created, what was answered
//	reader.go    the readers of results and of the ledger
//	drain.go     the wait until nothing moves any more, and the person who decides
//	judge.go     the account
//	board.go     progress
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

// options are the flags.
type options struct {
	minutes  float64
	rate     float64
	replicas int
	seed     uint64
	keep     bool
}

func main() {
	if store := os.Getenv(queueStore); store != "" {
		os.Exit(serveQueue(store))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		stop()
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	o := options{}
	flags := flag.NewFlagSet("soak", flag.ContinueOnError)
	flags.Float64Var(&o.minutes, "minutes", 2, "how long the nemesis works")
	flags.Float64Var(&o.rate, "rate", 120, "new requests a second; repeats and nonsense come on top")
	flags.IntVar(&o.replicas, "replicas", 3, "processes of the worker")
	flags.Uint64Var(&o.seed, "seed", 0, "of traffic and nemesis; 0: by the clock, and printed")
	flags.BoolVar(&o.keep, "keep", false, "keep the logs also when all is well")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.minutes <= 0 || o.rate <= 0 || o.replicas < 1 || flags.NArg() > 0 {
		return o, errors.New("-minutes, -rate and -replicas must be above 0, and there are no other arguments")
	}
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano() % 1e9)
	}
	return o, nil
}

// run is one soak: strike, heal, drain, judge.
func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	b := newBoard()
	b.say("soak: %.4g minutes, %.4g requests a second, %d replicas, -seed %d", o.minutes, o.rate, o.replicas, o.seed)
	w, err := start(ctx, o, b)
	if err != nil {
		return err
	}
	clean := false
	defer func() { w.stop(clean) }()
	b.say("logs: %s", w.folder)
	b.say("look inside: %s", w.postgres.Psql())

	reading := w.read(ctx)
	begun := time.Now()
	striking, endStrikes := context.WithTimeout(ctx, time.Duration(o.minutes*float64(time.Minute)))
	defer endStrikes()
	n := newNemesis(w, o.seed)
	struck := make(chan struct{})
	go func() {
		defer close(struck)
		n.run(striking)
	}()
	t := newTraffic(w, o)
	sendErr := t.run(ctx, striking)
	<-struck
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	b.say("%s healed: %d strikes; now everything has to come to its end", b.stamp(), n.strikes)
	took := time.Since(begun)
	w.book.offendIf(sendErr, "every message is taken by NATS in the end")
	w.book.offendIf(w.drain(ctx), "everything comes to its end once all is healed")
	reading()
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	err = w.judge(ctx, took)
	clean = err == nil && !o.keep
	return err
}
