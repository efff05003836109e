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
// more than one row says first what it would change, and wants --yes.
func bulkCommand(name, short string, do func(*outbox.Store, context.Context, outbox.Act, outbox.Filter) ([]string, error)) *cobra.Command {
	var f outbox.Filter
	var a outbox.Act
	var chosen, yes bool
	cmd := &cobra.Command{Use: name + " ID... | " + name + " --where ...", Short: short,
		Long: short + ".\n\nName the requests, or say --where and choose them with the flags; without further flags --where chooses all."}
	filterFlags(cmd, &f)
	actFlags(cmd, &a)
	cmd.Flags().BoolVar(&chosen, "where", false, "choose by the flags instead of naming ids")
	cmd.Flags().BoolVar(&yes, "yes", false, "really change more than one request")
	return verb(cmd, func(ctx context.Context, o office, args []string) error {
		if err := actFault(a); err != nil {
			return err
		}
		if chosen == (len(args) > 0) {
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
			return fmt.Errorf("there is nothing to %s: no such request is in a state that allows it (`worker explain ID` tells why)", name)
		}
		if n > 1 && !yes {
			return o.answer(map[string]any{"would_change": n, "first": first}, func() error {
				return report(o.cmd, nil, "would %s %d requests, first %s; nothing was changed. Say --yes to do it.\n", name, n, strings.Join(first, ", "))
			})
		}
		ids, err := do(o.store, ctx, a, f)
		if err != nil {
			return err
		}
		err = o.answer(map[string]any{"changed": ids}, func() error {
			return report(o.cmd, nil, "%s: %d requests\n", name, len(ids))
		})
		return errors.Join(err, unchanged(args, ids))
	})
}

// unchanged names those of the named requests that an act did not change. One who
// stops a call by its name must not take it for stopped.
func unchanged(named, changed []string) error {
	rest := slices.DeleteFunc(slices.Clone(named), func(id string) bool { return slices.Contains(changed, id) })
	if len(rest) == 0 {
		return nil
	}
	return fmt.Errorf("not changed: %s: no such request, in no state that allows it (`worker explain ID` tells why), or beyond --limit", strings.Join(rest, ", "))
}

func gateCommand(name, short string, do func(*outbox.Store, context.Context, outbox.Act) error) *cobra.Command {
	var a outbox.Act
	cmd := &cobra.Command{Use: name + " --why ...", Short: short, Args: cobra.NoArgs}
	actFlags(cmd, &a)
	return verb(cmd, func(ctx context.Context, o office, _ []string) error {
		if err := actFault(a); err != nil {
			return err
		}
		if err := do(o.store, ctx, a); err != nil {
			return err
		}
		gate, err := o.store.Gate(ctx)
		if err != nil {
			return err
		}
		return o.answer(gate, func() error { return report(o.cmd, nil, "%s: the gate is now %s\n", name, gate.State) })
	})
}
