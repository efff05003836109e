package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/terminal"
)

// publishedRate is what Twilio publishes for each endpoint of Flex and each account,
// in calls a second.
// https://www.twilio.com/docs/flex/developer/conversations/limits
const publishedRate = 20

// rateWarning warns of a rate above what Twilio publishes; "" for none, and for no limit.
func rateWarning(rate float64) string {
	if rate <= publishedRate {
		return ""
	}
	return fmt.Sprintf("a rate of %v is more than the %d a second that Twilio publishes for an endpoint and an account: expect 429"+
		" (https://www.twilio.com/docs/flex/developer/conversations/limits)", rate, publishedRate)
}

func fleetCommand() *cobra.Command {
	return verb(&cobra.Command{Use: "fleet", Short: "Show the workers of the fleet, where their settings differ, and the rate in force", Args: noArgs},
		func(ctx context.Context, o environment, _ []string) error {
			fleet, err := o.desk.Fleet(ctx)
			if err != nil {
				return err
			}
			return o.answer(fleet, func() error { return printFleet(o, fleet) })
		})
}

func printFleet(o environment, fleet gate.Fleet) error {
	var b bytes.Buffer
	var below []string
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tVERSION\tSTATE\tSINCE\tLAST CREATE")
	for _, r := range fleet.Replicas {
		state, since, reason := string(r.State), r.Since, deref(r.Reason)
		if !r.Alive {
			state, since, reason = gone, r.SeenAt, lastSeen(r, fleet.Now)
		}
		last := "-"
		if r.Last != nil {
			last = ago(fleet.Now.Sub(*r.Last))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", short(r.Name, 40), short(r.Version, 16), state, ago(fleet.Now.Sub(since)), last)
		below = append(below, short(reason, 96))
	}
	_ = w.Flush() // into memory
	if err := withBelow(o.cmd.OutOrStdout(), b.String(), below); err != nil {
		return err
	}
	for _, line := range fleetNotes(fleet) {
		if err := report(o.cmd, nil, "%s\n", terminal.Line(line)); err != nil {
			return err
		}
	}
	return nil
}

// fleetNotes are the sentences below the table.
func fleetNotes(fleet gate.Fleet) []string {
	rate := fmt.Sprintf("%v attempts a second", fleet.Rate)
	if fleet.Rate == 0 {
		rate = "no limit"
	}
	var notes []string
	if fleet.RateBy != nil {
		notes = append(notes, fmt.Sprintf("Rate: %s, set by %s; `worker rate --auto --why ...` lets it follow FLEX_RATE again.", rate, *fleet.RateBy))
	} else {
		notes = append(notes, fmt.Sprintf("Rate: %s.", rate))
	}
	for _, d := range fleet.Differences {
		note := d.String() + "."
		if d.Setting == "FLEX_RATE" && fleet.RateBy == nil {
			note += " The rate stays as it was until the living workers agree, or `worker rate N --why ...`." +
				" Only where no rate was ever set, as on a new database, the lowest is taken."
		}
		notes = append(notes, note)
	}
	if warning := rateWarning(fleet.Rate); warning != "" {
		notes = append(notes, "Warning: "+warning+".")
	}
	return notes
}

// gone is the state of a worker that no longer renews its row and did not take the row with it: it was killed, or
// Postgres is out of its reach.
const gone = "gone"

// lastSeen is what a worker that is gone said of itself last. That need not be why it is gone.
func lastSeen(r gate.Replica, now time.Time) string {
	said := fmt.Sprintf("last seen %s as %s", ago(now.Sub(r.SeenAt)), r.State)
	if r.Reason != nil {
		said += ": " + *r.Reason
	}
	return said
}

// ago is a time that has passed, as people say it.
func ago(d time.Duration) string {
	if d < time.Second {
		return "now"
	}
	return d.Round(time.Second).String() + " ago"
}

func notARate(text string) error {
	return fmt.Errorf("%q is not a number of attempts a second between 0 (no limit) and 1000000", text)
}

func rateCommand() *cobra.Command {
	var a operator.Act
	var auto bool
	cmd := &cobra.Command{Use: "rate N --why ... | rate --auto --why ...",
		Short: "Set the fleet's rate in attempts a second (0: no limit), or let it follow FLEX_RATE",
		Long: "Set the fleet's rate, in attempts a second; 0 is no limit. It stays, whatever FLEX_RATE says and\n" +
			"whichever worker starts, until `worker rate --auto`: from then on FLEX_RATE is in force where all\n" +
			"living workers agree.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 || auto == (len(args) == 1) {
				return errors.New("say either a number of attempts a second, or --auto")
			}
			return nil
		}}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		var flag *pflag.NotExistError // -1 is taken for a flag
		if errors.As(err, &flag) {
			if _, number := strconv.ParseFloat("-"+flag.GetSpecifiedShortnames(), 64); number == nil {
				return notARate("-" + flag.GetSpecifiedShortnames())
			}
		}
		return flagFault(nil, err)
	})
	actFlags(cmd, &a)
	cmd.Flags().BoolVar(&auto, "auto", false, "follow FLEX_RATE of the living workers")
	return verb(cmd, func(ctx context.Context, o environment, args []string) error {
		if auto {
			if err := o.desk.RateAuto(ctx, a); err != nil {
				return err
			}
			return o.answer(map[string]any{"rate": "auto"}, func() error {
				return report(o.cmd, nil, "rate: it follows FLEX_RATE of the living workers where they agree; `worker fleet` shows it\n")
			})
		}
		rate, err := strconv.ParseFloat(args[0], 64)
		if err != nil || !(rate >= 0 && rate <= 1e6) {
			return usage(notARate(args[0]))
		}
		if err := o.desk.Rate(ctx, a, rate); err != nil {
			return err
		}
		if warning := rateWarning(rate); warning != "" {
			fmt.Fprintf(o.cmd.ErrOrStderr(), "warning: %s\n", warning)
		}
		return o.answer(map[string]any{"rate": rate}, func() error {
			if rate == 0 {
				return report(o.cmd, nil, "rate: no limit, until `worker rate --auto`\n")
			}
			return report(o.cmd, nil, "rate: %v attempts a second, until `worker rate --auto`\n", rate)
		})
	})
}
