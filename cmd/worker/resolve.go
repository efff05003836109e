package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/terminal"
)

func resolveCommand() *cobra.Command {
	var a operator.Act
	var sid string
	var absent, unverified bool
	cmd := &cobra.Command{Use: "resolve ID --created KD... | --absent", Short: "Decide about an uncertain request what no lookup could find out", Args: one("ID"), ValidArgsFunction: completeIDs(1),
		Long: "Decide about an uncertain request what no lookup could find out.\n\n" +
			"--created KD... : its interaction exists, under this sid. It is read from Flex first, and shown.\n" +
			"--absent        : it surely does not exist. It is sent again; if you are wrong, a person is\n" +
			"                  called twice. TaskRouter is asked first, and what it says is shown: refused\n" +
			"                  when it finds the task, or when what it says does not prove that there is\n" +
			"                  none. While lookups still go on they may find it.\n" +
			"--unverified    : unasked, or although Flex says otherwise, or although lookups still go on."}
	actFlags(cmd, &a)
	cmd.Flags().StringVar(&sid, "created", "", "the interaction's sid")
	cmd.Flags().BoolVar(&absent, "absent", false, "there is no interaction: send it again")
	cmd.Flags().BoolVar(&unverified, "unverified", false, "believe it unasked, or although lookups still go on")
	attempt := attemptFlag(cmd)
	cmd.Flags().Lookup("attempt").Usage += " (required)"
	cmd.MarkFlagsOneRequired("created", "absent")
	cmd.MarkFlagsMutuallyExclusive("created", "absent")
	return verb(cmd, func(ctx context.Context, o environment, args []string) error {
		err := actFault(a)
		if err != nil {
			return err
		}
		if a.Attempt, err = attempt(); err != nil {
			return err
		}
		d, err := o.speaksOf(ctx, a, args[0], sid)
		if err != nil {
			return err
		}
		if absent {
			if err = o.lookedFor(ctx, d, unverified); err == nil {
				err = o.desk.ResolveAbsent(ctx, a, args[0])
			}
		} else {
			var seen flex.Outcome
			if seen, err = o.verify(ctx, d, sid, unverified); err == nil {
				err = o.desk.ResolveCreated(ctx, a, args[0], sid, seen)
			}
		}
		if errors.Is(err, operator.ErrNotUncertain) {
			return notUncertain(args[0])
		}
		if errors.Is(err, operator.ErrOtherAttempt) { // made while this asked Flex
			_, err = o.speaksOf(ctx, a, args[0], sid)
		}
		if err != nil {
			return err
		}
		if d, err = o.detail(ctx, args[0]); err != nil {
			return err
		}
		return o.answer(d.Row, func() error { return report(o.cmd, nil, "%s is now %s\n", terminal.Line(d.RequestID), d.State) })
	})
}

func notUncertain(id string) error {
	return no("%s is not uncertain: there is nothing to resolve. `%s` tells where it stands", terminal.Line(id), terminal.Command("worker", "explain", "--", id))
}

// speaksOf refuses a decision about a request that does not name the attempt it is about,
// or names one that is no longer the latest: what a person has found out about one attempt
// is not true of the next.
func (o environment) speaksOf(ctx context.Context, a operator.Act, id, sid string) (operator.Detail, error) {
	d, err := o.detail(ctx, id)
	switch {
	case err != nil:
		return d, err
	case a.Attempt != nil && *a.Attempt != d.Attempt:
		return d, no("nothing was changed: %s", stale(d, *a.Attempt))
	case d.State != request.Uncertain:
		return d, notUncertain(id)
	case a.Attempt != nil:
		return d, nil
	}
	command := d.Command("resolve", "--absent")
	if sid != "" {
		command = d.Command("resolve", "--created", sid)
	}
	return d, usage(fmt.Errorf("nothing was changed: a decision names the attempt that it is about, and the latest is attempt %d. If you have looked for that one:\n    %s", d.Attempt, command))
}

// client reads from Flex and TaskRouter for a person, with the settings of the workers, of
// which it returns LOOKUP_SETTLE.
func (o environment) client() (*flex.Client, time.Duration, error) {
	cfg, faults := loadConfig()
	if err := faultsOf(faults, false, "NATS_", "REQUESTS_", "RESULTS_", "DATABASE_URL", "ADMIN_ADDR", "RETENTION", "LOG_", "OTEL_"); err != nil {
		return nil, 0, usage(fmt.Errorf("these settings do not let Flex be asked; nothing was changed (--unverified decides unasked):\n%w", err))
	}
	client, err := flex.New(flex.Config{URL: cfg.FlexURL, TaskRouterURL: cfg.TaskRouterURL, InsecureHTTP: cfg.FlexInsecureHTTP, Credentials: cfg.credentials,
		LookupAttribute: cfg.LookupAttribute, Timeout: cfg.FlexTimeout, Concurrency: 1, UserAgent: "flexworker/" + version})
	return client, cfg.LookupSettle, err
}

// shows prints evidence, beside the answer.
func (o environment) shows(sentences ...string) {
	for _, s := range sentences {
		fmt.Fprintln(o.cmd.ErrOrStderr(), terminal.Line(s))
	}
}

// lookedFor asks TaskRouter before a person says that there is nothing: the task may be
// listed by now. And it wants the lookups to be over: as long as they go on, it may be
// found tomorrow and called twice today.
func (o environment) lookedFor(ctx context.Context, d operator.Detail, unverified bool) error {
	if unverified {
		return nil
	}
	if !d.WaitsForPerson() {
		return no("%s is still looked up, and may be found: nothing was changed. Wait until `%s` says that it waits for a person, or say --unverified as well",
			terminal.Line(d.RequestID), terminal.Command("worker", "explain", "--", d.RequestID))
	}
	client, settle, err := o.client()
	if err != nil {
		return err
	}
	e := o.desk.Ask(ctx, client, d, settle)
	o.shows(e.Said...)
	switch {
	case len(e.Found) > 0:
		sid := e.Found[0].InteractionSID
		if sid == "" {
			sid = "KD..."
		}
		return no("%s exists: nothing was changed. A lookup adopts it, or this does:\n    %s", terminal.Line(d.RequestID), d.Command("resolve", "--created", sid))
	case !e.Absent:
		return no("that %s does not exist is not proved: nothing was changed. If you know it from elsewhere:\n    %s",
			terminal.Line(d.RequestID), d.Command("resolve", "--absent", "--unverified"))
	}
	return nil
}

// verify reads the interaction, so that neither a mistyped sid nor that of another
// request settles this one.
func (o environment) verify(ctx context.Context, d operator.Detail, sid string, unverified bool) (flex.Outcome, error) {
	if unverified {
		return flex.Outcome{}, nil
	}
	client, _, err := o.client()
	if err != nil {
		return flex.Outcome{}, err
	}
	seen := client.Fetch(ctx, sid)
	if seen.Kind != flex.Created {
		return seen, no("%s is not shown by Flex: %s; nothing was changed (--unverified believes it all the same)", terminal.Line(sid), seen.Message)
	}
	o.shows(operator.Portrait(sid, seen) + ".")
	if why := operator.NotOf(d, sid, seen); why != "" {
		return seen, no("%s: nothing was changed (--unverified believes it all the same)", why)
	}
	return seen, nil
}

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
