package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/terminal"
)

// actFlags are who does it and why; both are recorded.
func actFlags(cmd *cobra.Command, a *operator.Act) {
	cmd.Flags().StringVar(&a.Why, "why", "", "why; it is recorded (required)")
	cmd.Flags().String("by", whoami(), "who; it is recorded")
	_ = cmd.MarkFlagRequired("why") // the flag exists: it was just made
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

// attemptFlag is the attempt that an act speaks of. Printed commands carry it.
func attemptFlag(cmd *cobra.Command) func() (*int, error) {
	n := cmd.Flags().Int("attempt", 0, "the latest attempt that you have seen; refused when another has been made since")
	return func() (*int, error) {
		switch {
		case !cmd.Flags().Changed("attempt"):
			return nil, nil
		case *n < 0:
			return nil, usage(errors.New("--attempt must not be negative"))
		default:
			return n, nil
		}
	}
}

func retryCommand() *cobra.Command {
	var unverified bool
	cmd := bulkCommand("retry", "Send settled requests that were not created once more, with a fresh count of attempts",
		func() operator.Change { return operator.ToRetry(unverified) })
	cmd.Long += "\n\nA request of which nobody knows whether an attempt created it is looked up first, and sent\n" +
		"again only when it is proved absent; --unverified sends it at once, and may call a person twice.\n" +
		"A pending request becomes due now, though never before its not_before. An expires_at that has\n" +
		"passed no longer counts after a retry."
	cmd.Flags().BoolVar(&unverified, "unverified", false, "send also what may exist, without a lookup")
	return cmd
}

// bulkCommand is an act on requests that are named or chosen. One that changes
// more than one row, or rows that nobody has named, says first what it would change,
// and wants --yes.
func bulkCommand(name, short string, to func() operator.Change) *cobra.Command {
	var f operator.Filter
	var a operator.Act
	var chosen, yes bool
	cmd := &cobra.Command{Use: name + " ID... | " + name + " --where ...", Short: short, ValidArgsFunction: completeIDs(0),
		Long: short + ".\n\nName the requests, or say --where and choose them with the flags; without further flags\n--where chooses all."}
	filterFlags(cmd, &f)
	actFlags(cmd, &a)
	attempt := attemptFlag(cmd)
	cmd.Flags().BoolVar(&chosen, "where", false, "choose by the flags instead of naming ids")
	cmd.Flags().BoolVar(&yes, "yes", false, "really change what --where chooses, or more than one request")
	return verb(cmd, func(ctx context.Context, o environment, args []string) (err error) {
		if a.Attempt, err = attempt(); err != nil {
			return err
		}
		switch {
		case chosen && len(args) > 0:
			return usage(fmt.Errorf("name the requests to %s, or choose them with --where: not both", name))
		case !chosen && len(args) == 0:
			return usage(fmt.Errorf("name the requests to %s, or choose them with --where", name))
		case a.Attempt != nil && len(args) != 1:
			return usage(errors.New("--attempt speaks of one request: name one"))
		}
		if err := filterFault(f); err != nil {
			return err
		}
		f.RequestIDs = nil
		if len(args) > 0 {
			f.RequestIDs = args
		}
		change := to()
		all, err := o.desk.Matching(ctx, change, a.Attempt, f)
		if err != nil {
			return err
		}
		flags := f
		flags.RequestIDs = nil
		if all.N == 0 {
			return no("there is nothing to %s: %s", name, o.why(ctx, change, a, args, flags))
		}
		if (all.N > 1 || chosen) && !yes {
			err := o.answer(map[string]any{"would_change": all.N, "first": all.IDs, "of": all.Of}, func() error {
				return report(o.cmd, nil, "would %s %s, first %s%s\n", name, requests(all.N), some(all.IDs), parts(all, "would be: "))
			})
			if unknown := o.unknown(ctx, args); unknown != "" {
				err = errors.Join(err, no("%s", unknown))
			}
			return errors.Join(err, no("nothing was changed. Say --yes to do it"))
		}
		all, err = o.desk.Do(ctx, change, a, f)
		if err != nil {
			return err
		}
		err = o.answer(map[string]any{"changed": all.IDs, "of": all.Of, "locked": append([]string{}, all.Locked...)}, func() error {
			if all.N == 0 {
				return nil
			}
			return report(o.cmd, nil, "%s: %s: %s%s\n", name, requests(all.N), some(all.IDs), parts(all, ""))
		})
		if n := len(all.Locked); n > 0 {
			err = errors.Join(err, leftOutError{fmt.Errorf("%s: %s locked by another session and left out; run it again: %s", name, are(n), some(all.Locked))})
		}
		if rest := unchanged(args, append(all.Locked, all.IDs...)); len(rest) > 0 {
			err = errors.Join(err, no("not changed: %s", o.why(ctx, change, a, rest, flags)))
		}
		return err
	})
}

// parts says what becomes of how many, each line after a word that says whether it did.
func parts(all operator.Affected, word string) string {
	words := make([]string, 0, len(all.Of))
	for what, n := range all.Of {
		words = append(words, fmt.Sprintf("\n    %s%d %s", word, n, what))
	}
	slices.Sort(words)
	return strings.Join(words, "")
}

// unchanged names those of the named requests that an act did not change. One who
// stops a call by its name must not take it for stopped.
func unchanged(named, changed []string) []string {
	return slices.DeleteFunc(slices.Clone(named), func(id string) bool { return slices.Contains(changed, id) })
}

// whyMost is of how many requests it is said why an act does not change them.
const whyMost = 20

// why says for each of the named requests why an act does not change it.
func (o environment) why(ctx context.Context, c operator.Change, a operator.Act, named []string, flags operator.Filter) string {
	leftOut := ""
	if flags.State != "" || flags.Source != "" || flags.ErrorKind != "" || flags.OlderThan != 0 || flags.Since != 0 || flags.Limit != 0 {
		leftOut = " (or it is left out by a flag)"
	}
	if len(named) == 0 {
		return "no request that is chosen so is in a state that allows it"
	}
	reasons := make([]string, 0, whyMost)
	for _, id := range named[:min(len(named), whyMost)] {
		switch d, err := o.desk.Show(ctx, id); {
		case errors.Is(err, operator.ErrUnknown):
			reasons = append(reasons, fmt.Sprintf("no request has the id %q", id))
		case err != nil:
			reasons = append(reasons, fmt.Sprintf("%s cannot be read: %v", terminal.Line(id), err))
		case a.Attempt != nil && *a.Attempt != d.Attempt:
			reasons = append(reasons, stale(d, *a.Attempt))
		case c.Name == "retry" && d.State == request.Pending && d.NotBefore().After(d.Now):
			reasons = append(reasons, fmt.Sprintf("%s is pending and waits for its not_before, %s, which nothing goes round", terminal.Line(id), d.NotBefore().UTC().Format(time.RFC3339)))
		case c.Name == "retry" && d.State == request.Rejected && deref(d.ErrorKind) == "invalid":
			reasons = append(reasons, fmt.Sprintf("%s failed the check before Flex and would fail it again: publish the corrected request under a new request_id", terminal.Line(id)))
		default:
			reasons = append(reasons, fmt.Sprintf("%s is %s: %s takes %s%s", terminal.Line(id), d.State, c.Name, c.Takes, leftOut))
		}
	}
	if more := len(named) - whyMost; more > 0 {
		reasons = append(reasons, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(reasons, "; ")
}

// unknown names those of the named requests that nobody knows; "": none.
func (o environment) unknown(ctx context.Context, named []string) string {
	var ids []string
	for _, id := range named[:min(len(named), whyMost)] {
		if _, err := o.desk.Show(ctx, id); errors.Is(err, operator.ErrUnknown) {
			ids = append(ids, fmt.Sprintf("no request has the id %q", id))
		}
	}
	return strings.Join(ids, "; ")
}

// stale says that an act speaks of an attempt which is no longer the latest, and what has
// come since.
func stale(d operator.Detail, seen int) string {
	return terminal.Line(fmt.Sprintf("%s: you speak of attempt %d, and the latest is attempt %d (it is %s now). Since then: %s. Look at it again: ",
		d.RequestID, seen, d.Attempt, d.State, d.Since(seen))) + terminal.Command("worker", "explain", "--", d.RequestID)
}

func requests(n int) string {
	if n == 1 {
		return "1 request"
	}
	return fmt.Sprintf("%d requests", n)
}

// are is requests with the verb.
func are(n int) string {
	if n == 1 {
		return "1 request is"
	}
	return requests(n) + " are"
}

// some are the first of ids.
func some(ids []string) string {
	if more := len(ids) - whyMost; more > 0 {
		return fmt.Sprintf("%s and %d more", terminal.Line(strings.Join(ids[:whyMost], ", ")), more)
	}
	return terminal.Line(strings.Join(ids, ", "))
}
