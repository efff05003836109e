package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/operator"
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
	return verb(cmd, func(ctx context.Context, o environment, args []string) (err error) {
		if a.Attempt, err = attempt(); err != nil {
			return err
		}
		r, err := o.desk.Resolve(ctx, a, args[0], operator.Decision{Created: sid, Absent: absent, Unverified: unverified})
		for _, sentence := range r.Said {
			o.shows(sentence)
		}
		if err != nil {
			return notResolved(err, args[0], a, sid, r)
		}
		answer := any(r.Request.Row)
		if r.Unread != nil { // nothing but its state is known
			answer = map[string]any{"request_id": args[0], "state": r.Became}
		}
		return o.answer(answer, func() error {
			return report(o.cmd, nil, "%s is now %s\n", terminal.Line(args[0]), r.Became)
		})
	})
}

// notResolved says in an operator's words why a decision changed nothing, and what would.
func notResolved(err error, id string, a operator.Act, sid string, r operator.Resolution) error {
	d, name := r.Request, terminal.Line(id)
	explain := terminal.Command("worker", "explain", "--", id)
	switch {
	case errors.Is(err, operator.ErrNotUncertain):
		return no("%s is not uncertain: there is nothing to resolve. `%s` tells where it stands", name, explain)
	case errors.Is(err, operator.ErrOtherAttempt):
		return no("nothing was changed: %s", stale(d, *a.Attempt))
	case errors.Is(err, operator.ErrNoAttempt):
		command := d.Command("resolve", "--absent")
		if sid != "" {
			command = d.Command("resolve", "--created", sid)
		}
		return usage(fmt.Errorf("nothing was changed: a decision names the attempt that it is about, and the latest is attempt %d. If you have looked for that one:\n    %s", d.Attempt, command))
	case errors.Is(err, operator.ErrLookedUp):
		return no("%s is still looked up, and may be found: nothing was changed. Wait until `%s` says that it waits for a person, or say --unverified as well", name, explain)
	case errors.Is(err, operator.ErrExists):
		found := cmp.Or(r.Found[0], "KD...")
		return no("%s exists: nothing was changed. A lookup adopts it, or this does:\n    %s", name, d.Command("resolve", "--created", found))
	case errors.Is(err, operator.ErrUnproved):
		return no("that %s does not exist is not proved: nothing was changed. If you know it from elsewhere:\n    %s", name, d.Command("resolve", "--absent", "--unverified"))
	case errors.Is(err, operator.ErrNotShown):
		return no("%s is not shown by Flex: %s; nothing was changed (--unverified believes it all the same)", terminal.Line(sid), after(operator.ErrNotShown, err))
	case errors.Is(err, operator.ErrNotIts):
		return no("%s: nothing was changed (--unverified believes it all the same)", after(operator.ErrNotIts, err))
	case errors.Is(err, operator.ErrCannotAsk):
		return usage(fmt.Errorf("%w; nothing was changed (--unverified decides unasked)", err))
	default:
		return unknownID(err, id)
	}
}

// after is what an error says more than the one it wraps.
func after(wrapped, err error) string {
	return terminal.Line(strings.TrimPrefix(err.Error(), wrapped.Error()+": "))
}

// askFlex reads from Flex and TaskRouter for a person, with the settings of the workers.
func askFlex() (operator.Flex, time.Duration, error) {
	cfg, faults := loadConfig()
	if err := faultsOf(faults, false, "NATS_", "REQUESTS_", "RESULTS_", "DATABASE_URL", "ADMIN_", "TRUSTED_", "RETENTION", "LOG_", "OTEL_"); err != nil {
		return nil, 0, err
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
