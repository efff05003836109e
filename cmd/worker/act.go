package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"flexworker/internal/outbox"
)

// actFlags are who does it and why; both are recorded.
func actFlags(cmd *cobra.Command, a *outbox.Act) {
	cmd.Flags().StringVar(&a.Why, "why", "", "why; it is recorded (required)")
	cmd.Flags().StringVar(&a.Who, "by", whoami(), "who; it is recorded")
	_ = cmd.MarkFlagRequired("why") // the flag exists: it was just made
}

// actFault wants who and why to be said.
func actFault(a outbox.Act) error {
	if strings.TrimSpace(a.Who) == "" || strings.TrimSpace(a.Why) == "" {
		return errors.New("--why and --by must not be empty: both are recorded")
	}
	return nil
}

func whoami() string {
	name := os.Getenv("SUDO_USER")
	if name == "" {
		name = os.Getenv("USER")
	}
	if u, err := user.Current(); name == "" && err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil || name == "" {
		return "unknown"
	}
	return name + "@" + host
}

// bulkCommand is an act on requests that are named or chosen. One that changes
// more than one row, or rows that nobody has named, says first what it would change,
// and wants --yes.
func bulkCommand(name, short string, do func(*outbox.Store, context.Context, outbox.Act, outbox.Filter) ([]string, error)) *cobra.Command {
	var f outbox.Filter
	var a outbox.Act
	var chosen, yes bool
	cmd := &cobra.Command{Use: name + " ID... | " + name + " --where ...", Short: short,
		Long: short + ".\n\nName the requests, or say --where and choose them with the flags; without further flags --where chooses all."}
	filterFlags(cmd, &f)
	actFlags(cmd, &a)
	cmd.Flags().BoolVar(&chosen, "where", false, "choose by the flags instead of naming ids")
	cmd.Flags().BoolVar(&yes, "yes", false, "really change what --where chooses, or more than one request")
	return verb(cmd, func(ctx context.Context, o office, args []string) error {
		if err := actFault(a); err != nil {
			return err
		}
		switch {
		case chosen && len(args) > 0:
			return fmt.Errorf("name the requests to %s, or choose them with --where: not both", name)
		case !chosen && len(args) == 0:
			return fmt.Errorf("name the requests to %s, or choose them with --where", name)
		}
		if err := filterFault(f); err != nil {
			return err
		}
		f.RequestIDs = nil
		if len(args) > 0 {
			f.RequestIDs = args
		}
		n, first, err := o.store.Matching(ctx, name, f)
		if err != nil {
			return err
		}
		if f.Limit > 0 {
			n = min(n, f.Limit)
		}
		if n == 0 {
			return fmt.Errorf("there is nothing to %s: %s", name, o.why(ctx, name, args))
		}
		if (n > 1 || chosen) && !yes {
			return o.answer(map[string]any{"would_change": n, "first": first}, func() error {
				return report(o.cmd, nil, "would %s %s, first %s; nothing was changed. Say --yes to do it.\n", name, requests(n), strings.Join(first, ", "))
			})
		}
		ids, err := do(o.store, ctx, a, f)
		if err != nil {
			return err
		}
		err = o.answer(map[string]any{"changed": ids}, func() error {
			return report(o.cmd, nil, "%s: %s: %s\n", name, requests(len(ids)), some(ids))
		})
		if rest := unchanged(args, ids); len(rest) > 0 {
			err = errors.Join(err, fmt.Errorf("not changed: %s", o.why(ctx, name, rest)))
		}
		return err
	})
}

// unchanged names those of the named requests that an act did not change. One who
// stops a call by its name must not take it for stopped.
func unchanged(named, changed []string) []string {
	return slices.DeleteFunc(slices.Clone(named), func(id string) bool { return slices.Contains(changed, id) })
}

// whyMost is of how many requests it is said why an act does not change them.
const whyMost = 20

// why says for each of the named requests why an act does not change it.
func (o office) why(ctx context.Context, act string, named []string) string {
	if len(named) == 0 {
		return "no request that is chosen so is in a state that allows it"
	}
	reasons := make([]string, 0, whyMost)
	for _, id := range named[:min(len(named), whyMost)] {
		switch d, err := o.store.Show(ctx, id); {
		case errors.Is(err, outbox.ErrUnknown):
			reasons = append(reasons, fmt.Sprintf("no request has the id %q", id))
		case err != nil:
			reasons = append(reasons, fmt.Sprintf("%s cannot be read: %v", id, err))
		default:
			reasons = append(reasons, fmt.Sprintf("%s is %s: %s takes %s (or it is left out by a flag)", id, d.State, act, takes[act]))
		}
	}
	if more := len(named) - whyMost; more > 0 {
		reasons = append(reasons, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(reasons, "; ")
}

// takes are the requests that an act can change.
var takes = map[string]string{
	"cancel": "what is pending", "republish": "what is settled, once its result was published",
	"retry": "what is rejected (not by the check before Flex), abandoned, expired or cancelled",
}

func requests(n int) string {
	if n == 1 {
		return "1 request"
	}
	return fmt.Sprintf("%d requests", n)
}

// some are the first of ids.
func some(ids []string) string {
	if more := len(ids) - whyMost; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(ids[:whyMost], ", "), more)
	}
	return strings.Join(ids, ", ")
}

func gateCommand(name, short string, do func(*outbox.Store, context.Context, outbox.Act) error) *cobra.Command {
	var a outbox.Act
	cmd := &cobra.Command{Use: name + " --why ...", Short: short, Args: cobra.NoArgs}
	actFlags(cmd, &a)
	return verb(cmd, func(ctx context.Context, o office, _ []string) error {
		if err := actFault(a); err != nil {
			return err
		}
		before, err := o.store.Gate(ctx)
		if err != nil {
			return err
		}
		if err := do(o.store, ctx, a); err != nil {
			return err
		}
		gate, err := o.store.Gate(ctx)
		if err != nil {
			return err
		}
		was := ""
		switch {
		case before.State == gate.State:
			was = ", as before"
		case gate.State == outbox.GateOpen && before.Probed:
			was = "; the fleet had shut it (" + before.Reason + ") and does so again unless that was put right"
		}
		return o.answer(gate, func() error { return report(o.cmd, nil, "%s: the gate is now %s%s\n", name, gate.State, was) })
	})
}
