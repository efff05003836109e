package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/terminal"
)

func recheckCommand() *cobra.Command {
	var a operator.Act
	var since string
	var yes bool
	cmd := &cobra.Command{Use: "recheck --since ... --why ...", Args: noArgs, Short: "After a loss of data, look for what may have been sent before it is sent",
		Long: "After a loss of data (a failover to a standby that lagged, a restore), look for what may have\n" +
			"been sent before it is sent.\n\n" +
			"Every request that could have been sent since then becomes uncertain: it is looked up, adopted\n" +
			"when it exists, and sent only when it is proved absent. What has settled unsent keeps its\n" +
			"answer, and a retry looks for it first. Hold the fleet first, and release it afterwards:\n" +
			"docs/operating.md has the steps."}
	actFlags(cmd, &a)
	cmd.Flags().StringVar(&since, "since", "", "from which `moment` on data was lost: a time such as 2026-11-22T03:00:00Z, or how long ago, "+durationForm+"; rather too early than too late (required)")
	cmd.Flags().BoolVar(&yes, "yes", false, "really do it")
	_ = cmd.MarkFlagRequired("since") // the flag exists: it was just made
	return verb(cmd, func(ctx context.Context, o environment, _ []string) error {
		from, err := instant(since, time.Now())
		if err != nil {
			return err
		}
		sum, err := o.desk.Recheck(ctx, a, from, os.Getenv("LOOKUP_ATTRIBUTE"), !yes)
		if errors.Is(err, operator.ErrNotHeld) {
			return no("nothing was changed: the fleet is not held, and would send meanwhile what is asked about. First:\n    %s", terminal.Command("worker", "hold", "--why", a.Why))
		}
		if err != nil {
			return err
		}
		would := "recheck:"
		if !yes {
			would = "would recheck:"
		}
		err = o.answer(sum, func() error {
			return report(o.cmd, nil, "%s %s may have been sent since %s and are looked up first; %s more without a task to look for wait for a person\n"+
				"%s that settled unsent may have been sent as well: what was answered stays, and a retry looks first\n",
				would, requests(sum.LookedUp), from.UTC().Format(time.RFC3339), strconv.Itoa(sum.ForPerson), requests(sum.IfRetried))
		})
		if !yes {
			err = errors.Join(err, no("nothing was changed. Say --yes to do it"))
		} else if err == nil {
			o.shows("Lookups go on while the fleet is held. What is proved absent is sent after: worker release --why ...")
		}
		return err
	})
}

// instant is a moment as people type it: RFC 3339, or how long ago.
func instant(text string, now time.Time) (time.Time, error) {
	if at, err := time.Parse(time.RFC3339, text); err == nil && !at.After(now) {
		return at, nil
	}
	var ago days
	if err := ago.Set(text); err != nil || ago <= 0 {
		return time.Time{}, usage(fmt.Errorf("--since %s: a moment in the past such as 2026-11-22T03:00:00Z, or how long ago, %s", terminal.Line(text), durationForm))
	}
	return now.Add(-time.Duration(ago)), nil
}
