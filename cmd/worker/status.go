package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/terminal"
)

func statusCommand() *cobra.Command {
	return verb(&cobra.Command{Use: "status", Short: "Show whether requests move, why not, and what waits for a person", Args: noArgs},
		func(ctx context.Context, o environment, _ []string) error {
			all, err := o.desk.Status(ctx)
			if err != nil && all.Unread == nil {
				return err
			}
			return errors.Join(o.answer(all, func() error {
				_, err := io.WriteString(o.cmd.OutOrStdout(), statusText(all))
				return err
			}), err)
		})
}

// statusText is the glance, in 100 columns but for commands, which can be pasted.
func statusText(all operator.Status) string {
	var b strings.Builder
	say := func(format string, args ...any) { b.WriteString(terminal.Line(fmt.Sprintf(format, args...)) + "\n") }
	now := all.Fleet.Now
	when := func(at time.Time) string { return at.UTC().Format("2006-01-02 15:04:05 UTC") }

	switch g := all.Gate; g.State {
	case gate.Held:
		say("Gate: held by %s since %s", short(g.ChangedBy, 30), when(g.HeldSince))
	case gate.Paused:
		say("Gate: paused by %s since %s until %s", short(g.ChangedBy, 20), when(g.ChangedAt), when(now.Add(g.PausedFor)))
	default:
		say("Gate: open")
	}
	if all.Gate.State != gate.Open {
		say("    %s", short(all.Gate.Reason, 96))
		say("    %s", terminal.Command("worker", "release", "--why", "..."))
	}
	rate := fmt.Sprintf("%v attempts a second", all.Fleet.Rate)
	if all.Fleet.Rate == 0 {
		rate = "no limit"
	}
	if all.Fleet.RateBy != nil {
		rate += ", set by " + short(*all.Fleet.RateBy, 40)
	}
	say("Rate: %s", rate)

	alive := 0
	for _, r := range all.Fleet.Replicas {
		if r.Alive {
			alive++
		}
	}
	replicas := fmt.Sprintf("Replicas: %d", alive)
	if gone := len(all.Fleet.Replicas) - alive; gone > 0 {
		replicas += fmt.Sprintf(", and %d gone within the last hour", gone)
	}
	say("%s", replicas)
	table := func(rows ...[]string) {
		w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, r := range rows {
			fmt.Fprintln(w, "    "+strings.Join(r, "\t"))
		}
		_ = w.Flush() // into memory
	}
	var rows [][]string
	for _, r := range all.Fleet.Replicas {
		if r.Alive {
			rows = append(rows, []string{short(r.Name, 40), string(r.State), ago(now.Sub(r.Since)), short(deref(r.Reason), 30)})
		} else {
			rows = append(rows, []string{short(r.Name, 40), gone, ago(now.Sub(r.SeenAt)), "last seen as " + string(r.State)})
		}
	}
	table(rows...)
	for _, d := range all.Fleet.Differences {
		say("    %s", short(d.String(), 96))
	}

	say("Locks:%s", none(len(all.Holders)))
	for _, h := range all.Holders {
		line := short(h.String(), 80)
		if h.Waiting > 0 {
			line += fmt.Sprintf("; %d wait", h.Waiting)
		}
		say("    %s", line)
		if h.Query != "" {
			say("        %s", short(h.Query, 92))
		}
	}
	if all.Unread != nil {
		say("A table is locked: the rest cannot be read.")
		return b.String()
	}

	say("Unfinished:%s", none(len(all.Unfinished)))
	rows = nil
	for _, u := range all.Unfinished {
		rows = append(rows, []string{fmt.Sprint(u.Requests), u.State, short(u.Source, 40), "oldest " + u.Oldest.Round(time.Second).String()})
	}
	table(rows...)

	say("Failed within the last hour, or tried again after a failure:%s", none(len(all.Failures)))
	for _, f := range all.Failures {
		kind := orDash(f.ErrorKind)
		if f.Workspace != nil {
			kind += ", " + short(*f.Workspace, 34)
		}
		say("    %d %s of %s: %s", f.Requests, f.State, short(f.Source, 20), kind)
		if f.ErrorMessage != nil {
			say("        %s", short(*f.ErrorMessage, 92))
		}
	}

	say("A person must look at:%s", none(len(all.Attention)))
	for _, a := range all.Attention {
		say("    %s %s: %s", a.What, short(a.ID, 40), short(deref(a.Why), 42))
		say("        %s", a.Command)
	}
	switch more := all.Waiting - len(all.Attention); {
	case all.Waiting > operator.WaitingMost:
		say("    and more than %d more: TABLE outbox_attention", more-1)
	case more > 0:
		say("    and %d more: TABLE outbox_attention", more)
	}
	return b.String()
}

func none(n int) string {
	if n == 0 {
		return " nothing"
	}
	return ""
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
