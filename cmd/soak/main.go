// Command soak lets one to six replicas of the worker run as processes through
// everything that may go wrong at once, and then holds the account: every
// request answered once, none created twice, as the endpoint's own ledger says,
// and a word about the set-up of each that was created.
// Beside each replica runs a plain consumer with retries, which gets one request in ten
// and the same strokes, so that a reader sees what the zeros are worth.
//
//	main.go      flags, the course of a run
//	world.go     the servers, the proxies between each pair, the replicas
//	replica.go   one process: started, killed, stopped, restarted
//	log.go       the end of what a process says
//	fleet.go     replicas come and go, the rolling restart
//	plain.go     the plain consumer: a whole program
//	beside.go    what surrounds the plain consumer, and its account
//	queue.go     NATS as a process that can be killed
//	orphan.go    no process outlives the soak
//	traffic.go   the senders: requests, repeats, conflicts, nonsense
//	nemesis.go   what strikes, when, and how it heals
//	deck.go      everything that can strike
//	book.go      what was asked, what was created, what was answered
//	result.go    a message of the result stream
//	reader.go    the readers of results and of the ledger
//	words.go     the words about set-ups, and their account
//	drain.go     the wait until nothing moves any more
//	person.go    the person who decides what no lookup can
//	flat.go      memory, goroutines, connections and disk over time
//	judge.go     the account
//	count.go     the account in numbers
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
	requests int // 0: as many as the minutes allow
	rate     float64
	apart    time.Duration
	replicas int
	seed     uint64
	keep     bool
}

func main() {
	if store := os.Getenv(queueStore); store != "" {
		os.Exit(serveQueue(store))
	}
	if queue := os.Getenv(plainQueue); queue != "" {
		os.Exit(servePlain(queue, os.Getenv(plainEndpoint)))
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
	flags.Float64Var(&o.minutes, "minutes", 0, "how long the nemesis works at most; 0: 2, or until all -requests were sent")
	flags.IntVar(&o.requests, "requests", 0, "the nemesis works until so many were sent; the first replica is never ended, so that its memory can be judged")
	flags.Float64Var(&o.rate, "rate", 120, "new requests a second at most; repeats and nonsense come on top")
	flags.DurationVar(&o.apart, "apart", 850*time.Millisecond, "mean time between two strikes; there are two at a time at most")
	flags.IntVar(&o.replicas, "replicas", 3, "processes of the worker at the start")
	flags.Uint64Var(&o.seed, "seed", 0, "of traffic and nemesis; 0: by the clock, and printed")
	flags.BoolVar(&o.keep, "keep", false, "keep the logs also when all is well")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.minutes == 0 && o.requests == 0 {
		o.minutes = 2
	}
	if o.minutes < 0 || o.requests < 0 || o.rate <= 0 || o.apart < 10*time.Millisecond || o.replicas < 1 || o.replicas > places || flags.NArg() > 0 {
		return o, fmt.Errorf("-minutes and -requests must not be below 0, -rate above 0, -apart at least 10ms, -replicas 1 to %d, and there are no other arguments", places)
	}
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano() % 1e9)
	}
	return o, nil
}

// length is how long the nemesis works, in words.
func (o options) length() string {
	switch {
	case o.requests == 0:
		return fmt.Sprintf("%.4g minutes", o.minutes)
	case o.minutes == 0:
		return fmt.Sprintf("%d requests", o.requests)
	default:
		return fmt.Sprintf("%d requests or %.4g minutes", o.requests, o.minutes)
	}
}

// striking ends when the nemesis has worked long enough.
func (o options) striking(ctx context.Context) (context.Context, context.CancelFunc) {
	if o.minutes == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Duration(o.minutes*float64(time.Minute)))
}

// run is one soak: strike, heal, drain, judge.
func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	b := newBoard()
	b.say("soak: %s, at most %.4g requests a second, a strike each %v, %d replicas at the start, -seed %d", o.length(), o.rate, o.apart, o.replicas, o.seed)
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
	striking, endStrikes := o.striking(ctx)
	defer endStrikes()
	n := newNemesis(w, o.seed)
	struck := make(chan struct{})
	go func() {
		defer close(struck)
		n.run(striking)
	}()
	deciding := w.decideMeanwhile(striking)
	samples := w.sample(striking)
	t := newTraffic(w, o)
	sendErr := t.run(ctx, striking, endStrikes)
	<-struck
	deciding()
	w.samples = samples()
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	b.say("%s healed: %d strikes; now everything has to come to its end", b.stamp(), n.strikes)
	took := time.Since(begun)
	w.book.offendIf(w.scale(places), "the fleet can grow") // what is left comes to its end sooner
	w.book.offendIf(sendErr, "every message is taken by NATS in the end")
	w.book.offendIf(w.drain(ctx), "everything comes to its end once all is healed")
	w.beside.drain(ctx, w.stream)
	reading()
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	err = w.judge(ctx, took)
	clean = err == nil && !o.keep
	return err
}
