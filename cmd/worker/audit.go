package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"flexworker/internal/terminal"
)

// errUnbalanced makes the exit status 1; the report is printed before.
var errUnbalanced = errors.New("the account does not balance")

func openStream(ctx context.Context, js jetstream.JetStream, setting, name string) (jetstream.Stream, error) {
	s, err := js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, usage(fmt.Errorf("there is no stream %s (%s); --tables-only does without the streams", name, setting))
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	return s, nil
}

func auditCommand() *cobra.Command {
	var tablesOnly bool
	cmd := &cobra.Command{Use: "audit", Short: "Balance the account: request stream, tables and result stream", Args: noArgs}
	cmd.Flags().BoolVar(&tablesOnly, "tables-only", false, "do not look at the streams")
	return verb(cmd, func(ctx context.Context, o environment, _ []string) error {
		var requests, results jetstream.Stream
		var consumer string
		var retention time.Duration
		if !tablesOnly {
			cfg, stream, done, err := senderStream()
			if err != nil {
				return err
			}
			defer done()
			if requests, err = openStream(ctx, stream, "REQUESTS_STREAM", cfg.RequestsStream); err != nil {
				return err
			}
			if results, err = openStream(ctx, stream, "RESULTS_STREAM", cfg.ResultsStream); err != nil {
				return err
			}
			consumer, retention = cfg.RequestsConsumer, cfg.Retention
		}
		r, err := o.desk.Audit(ctx, requests, results, consumer, retention)
		if err != nil {
			return err
		}
		err = o.answer(r, func() error {
			for _, c := range r.Counts {
				if err := report(o.cmd, nil, "%-47s %d\n", c.What, c.N); err != nil {
					return err
				}
			}
			for _, f := range r.Offenders {
				if err := report(o.cmd, nil, "BROKEN %s: %s %s\n", f.Rule, terminal.Line(f.ID), terminal.Line(f.Why)); err != nil {
					return err
				}
			}
			if len(r.Offenders) > 0 {
				return nil // the error says so
			}
			if tablesOnly {
				return report(o.cmd, nil, "The tables balance; the streams were not asked.\n")
			}
			if r.Forgotten > 0 { // of those the table alone is known
				return report(o.cmd, nil, "The account balances, as far back as the result stream goes.\n")
			}
			return report(o.cmd, nil, "The account balances.\n")
		})
		if err == nil && len(r.Offenders) > 0 {
			err = no("%w: %d offenders", errUnbalanced, len(r.Offenders))
		}
		return err
	})
}
