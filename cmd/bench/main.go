// Command bench measures the worker beside the cheapest thing that could do its
// visible work: a loop from JetStream to the endpoint to the result stream that
// keeps nothing. It starts all servers itself, lets both run as processes, in
// turns, and prints ratios with their spread: figures of one machine drift,
// ratios of one run hardly do.
//
//	main.go      flags, and which figures there are
//	world.go     Postgres, NATS, the strict imitation of Flex, databases and streams
//	process.go   a worker or a loop as a process: its start, CPU time, memory
//	loop.go      the loop that keeps nothing
//	writes.go    the same with three durable writes and no other duty
//	burn.go      throughput: a backlog burnt down
//	confirm.go   the same with CONFIRM=true
//	large.go     the same beside millions of rows
//	pace.go      latency at a steady pace
//	fleet.go     several replicas; the fleet's rate
//	rest.go      an idle replica; the start
//	fill.go      large tables
//	growth.go    cost against table size and against replicas; retention
//	reads.go     what people ask beside millions of rows, and the claims beside them
//	scale.go     claims, the page and retention beside one large table; twenty idle replicas
//	report.go    the table
//	chart.go     the same as SVG, svg.go its strokes
//
// It reads /proc for CPU time and memory, so it runs on Linux.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	only        string
	rounds      int
	requests    int
	concurrency int
	settled     int
	notDue      int
	small       bool
	out         string
	program     string
}

// A figure is one measurement and the rows it gives.
type figure struct {
	name    string
	what    string
	measure func(*world, context.Context) ([]row, error)
}

var figures = []figure{
	{"start", "from start to ready", (*world).measureStart},
	{"idle", "an idle replica", (*world).measureIdle},
	{"burn", "burning down a backlog", (*world).measureBurn},
	{"pace", "request to result at 200/s", (*world).measurePace},
	{"large", "burn-down beside millions of rows", (*world).measureLarge},
	{"confirm", "burn-down with CONFIRM=true", (*world).measureConfirm},
	{"fleet", "four replicas against one, 100 ms endpoint", (*world).measureFleet},
	{"rate", "FLEX_RATE=50 and four replicas", (*world).measureRate},
	{"memory", "memory at full load", (*world).measureMemory},
}

// growths are measured only when they are asked for: they take long.
var growths = []figure{
	{"size", "cost against table size", (*world).measureSize},
	{"replicas", "cost against replicas", (*world).measureReplicas},
	{"retention", "retention beside ten million rows", (*world).measureRetention},
	{"reads", "what people ask, twenty at once, and the claims beside them", (*world).measureReads},
	{"scale", "claims, the page and retention beside one large table", (*world).measureScale},
	{"twenty", "twenty idle replicas on one database", (*world).measureTwenty},
}

func main() {
	if as := os.Getenv(role); as != "" {
		if err := play(context.Background(), as); err != nil {
			fmt.Fprintln(os.Stderr, as+":", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		stop()
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	o := options{}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.only, "only", "", "figures, separated by commas: "+names(figures)+"; and, not by themselves: "+names(growths))
	flags.IntVar(&o.rounds, "rounds", 5, "rounds of each figure")
	flags.IntVar(&o.requests, "requests", 10000, "requests in a backlog")
	flags.IntVar(&o.concurrency, "concurrency", 64, "calls in flight: FLEX_CONCURRENCY, and the loop's")
	flags.IntVar(&o.settled, "settled", 5_000_000, "settled rows in the large table")
	flags.IntVar(&o.notDue, "not-due", 500_000, "rows not yet due in the large table")
	flags.BoolVar(&o.small, "small", false, "the smallest size of everything, to see that it runs")
	flags.StringVar(&o.out, "out", "", "folder for the charts; empty: none")
	flags.StringVar(&o.program, "worker", "", "the worker to measure; empty: the one beside this program")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.small {
		o.rounds, o.requests, o.settled, o.notDue = 1, 300, 2000, 500
	}
	if flags.NArg() > 0 || o.rounds < 1 || o.requests < 1 || o.concurrency < 1 {
		return o, errors.New("-rounds, -requests and -concurrency must be above 0, and there are no other arguments")
	}
	return o, nil
}

func names(list []figure) string {
	var n []string
	for _, f := range list {
		n = append(n, f.name)
	}
	return strings.Join(n, ",")
}

// run measures what was asked for and prints each figure as it is had.
func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	chosen := figures
	if o.only != "" {
		chosen = nil
		for name := range strings.SplitSeq(o.only, ",") {
			all := append(slices.Clone(figures), growths...)
			i := slices.IndexFunc(all, func(f figure) bool { return f.name == name })
			if i < 0 {
				return fmt.Errorf("-only: there is no figure %q", name)
			}
			chosen = append(chosen, all[i])
		}
	}
	w, err := start(ctx, o)
	if err != nil {
		return err
	}
	defer w.stop()
	fmt.Println(machine(ctx, w))
	var rows []row
	for _, f := range chosen {
		began := time.Now()
		fmt.Printf("\n%s: %s\n", f.name, f.what)
		got, err := f.measure(w, ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		printRows(os.Stdout, got)
		fmt.Printf("(%v)\n", time.Since(began).Round(time.Second))
		rows = append(rows, got...)
	}
	fmt.Println("\nAll of it:")
	printRows(os.Stdout, rows)
	return w.draw(rows)
}
