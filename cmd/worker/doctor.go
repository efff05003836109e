package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"flexworker/internal/consumer"
	"flexworker/internal/doctor"
	"flexworker/internal/flex"
	"flexworker/internal/terminal"
)

func doctorCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "doctor", Short: "Ask Postgres, NATS and Twilio, by reads alone, whether a worker has all it needs", Args: noArgs,
		Long: "Ask Postgres, NATS and Twilio, by reads alone, whether all that a worker needs is there and\n" +
			"permitted. Each line says ok, or what to do. Type it with the settings of the worker, before the\n" +
			"first start and whenever something does not move.\n\n" +
			"ok       as it should be\n" +
			"advice   the worker can work with it, and somebody will be surprised\n" +
			"unknown  it could not be asked\n" +
			"fault    the worker cannot work with it (exit status 1)\n" +
			"settings a setting is at fault (exit status 2)\n" +
			"away     a server does not answer (exit status 3)"}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		report := examine(cmd.Context())
		var err error
		if *asJSON {
			err = writeJSON(cmd, map[string]any{"lines": report})
		} else {
			err = printReport(cmd, report)
		}
		return errors.Join(err, failure(report))
	}
	return cmd
}

// failure is what the exit status says of a report: what is away may be well, so that comes before all else.
func failure(r doctor.Report) error {
	switch {
	case r.Has(doctor.Away):
		return errors.New("a server is away")
	case r.Has(doctor.Settings):
		return usage(errors.New("a setting is at fault"))
	case r.Has(doctor.Fault):
		return no("the worker cannot work like this")
	default:
		return nil
	}
}

// examine asks all servers at the same time, unless the settings have faults: then it asks nobody.
func examine(ctx context.Context) doctor.Report {
	cfg, faults := loadConfig()
	settings := settingsReport(cfg, faults)
	if faults != nil {
		return settings
	}
	var database, streams, twilio doctor.Report
	var asking sync.WaitGroup
	asking.Go(func() { database = examinePostgres(ctx, cfg) })
	asking.Go(func() { streams = examineNATS(ctx, cfg) })
	asking.Go(func() { twilio = examineTwilio(ctx, cfg) })
	asking.Wait()
	return append(append(append(settings, database...), streams...), twilio...)
}

func settingsReport(cfg Config, faults error) (r doctor.Report) {
	line := func(status doctor.Status, says string) {
		r = append(r, doctor.Line{Server: "settings", What: "environment", Status: status, Says: says})
	}
	if faults != nil {
		for fault := range strings.SplitSeq(faults.Error(), "\n") {
			line(doctor.Settings, fault)
		}
		return r
	}
	line(doctor.OK, "no setting has a fault")
	for _, name := range unknownSettings() {
		line(doctor.Advice, name+": "+unknownSetting)
	}
	warnings := cfg.warnings()
	if warning := rateWarning(cfg.FlexRate); warning != "" {
		warnings = append(warnings, "FLEX_RATE: "+warning)
	}
	for _, warning := range warnings {
		line(doctor.Advice, warning)
	}
	return r
}

func examinePostgres(ctx context.Context, cfg Config) (r doctor.Report) {
	pool, err := openPool(ctx, cfg.DatabaseURL, 1, statementTimeout, nil)
	if err != nil {
		return doctor.Report{{Server: "postgres", What: "connection", Status: doctor.Settings, Says: err.Error()}}
	}
	defer pool.Close()
	r.Postgres(ctx, pool, cfg.Migrate)
	return r
}

func examineNATS(ctx context.Context, cfg Config) (r doctor.Report) {
	options := append(natsOptions(cfg), nats.Name("flexworker doctor"), nats.Timeout(connectTimeout),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // a line says what could not be asked
	conn, err := nats.Connect(string(cfg.NATSURL), options...)
	if err != nil {
		r.Unconnected(natsError{err, cfg.NATSURL})
		return r
	}
	defer conn.Close()
	r.NATS(ctx, conn, doctor.Streams{
		Requests: consumer.Names{Stream: cfg.RequestsStream, Subject: cfg.RequestsSubject, Consumer: cfg.RequestsConsumer, Create: cfg.CreateStreams},
		Results:  cfg.ResultsStream, Subject: cfg.ResultsSubject, Service: cfg.ServiceSubject, Inbox: inboxPrefix, Retention: cfg.Retention,
	})
	return r
}

func examineTwilio(ctx context.Context, cfg Config) (r doctor.Report) {
	client, err := flex.New(flex.Config{URL: cfg.FlexURL, TaskRouterURL: cfg.TaskRouterURL, InsecureHTTP: cfg.FlexInsecureHTTP, Credentials: cfg.credentials,
		LookupAttribute: cfg.LookupAttribute, Timeout: min(cfg.FlexTimeout, doctorTimeout), Concurrency: 1, UserAgent: "flexworker/" + version})
	if err != nil {
		return doctor.Report{{Server: "flex", What: "credentials", Status: doctor.Settings, Says: err.Error()}}
	}
	r.Twilio(ctx, client, doctor.Account{SID: string(cfg.TwilioAccountSID), Attribute: cfg.LookupAttribute})
	return r
}

// printReport prints a line for each thing, and below it what to do.
func printReport(cmd *cobra.Command, r doctor.Report) error {
	var b strings.Builder
	below := make([]string, len(r))
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "STATUS\tSERVER\tWHAT\tFOUND")
	for i, l := range r {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", l.Status, l.Server, l.What, terminal.Line(l.Says))
		if l.Do != "" {
			below[i] = "do: " + terminal.Line(l.Do)
		}
	}
	_ = w.Flush() // into memory
	return withBelow(cmd.OutOrStdout(), b.String(), below)
}
