package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/terminal"
)

func closeCommand() *cobra.Command {
	var a operator.Act
	var unverified, yes bool
	cmd := &cobra.Command{Use: "close ID KD...", Short: "Close the channel of a duplicate of a request's interaction at Twilio", Args: idAndSID, ValidArgsFunction: completeIDs(1),
		Long: "Close the channel of a duplicate of a request's interaction at Twilio.\n\n" +
			"Flex is asked first, and what it shows of the duplicate and of the interaction that is kept is\n" +
			"shown. The conversation of a closed channel becomes read-only. So it is refused where both have\n" +
			"one conversation, for the interaction that is kept, for one that another request keeps, and until\n" +
			"the request has settled. --unverified believes you where Flex does not show that it is this\n" +
			"request's, or that the conversations differ."}
	actFlags(cmd, &a)
	attempt := attemptFlag(cmd)
	cmd.Flags().BoolVar(&unverified, "unverified", false, "believe that it is this request's, though Flex does not show it")
	cmd.Flags().BoolVar(&yes, "yes", false, "really close")
	return verb(cmd, func(ctx context.Context, o environment, args []string) (err error) {
		if a.Attempt, err = attempt(); err != nil {
			return err
		}
		id, closing := args[0], operator.Closing{Duplicate: args[1], Unverified: unverified}
		do, key := o.desk.Close, "closed"
		if !yes {
			do, key = o.desk.PreviewClose, "would_close"
		}
		c, err := do(ctx, a, id, closing)
		o.shows(c.Said...)
		if err != nil {
			return notClosed(err, id, a, closing, c)
		}
		err = o.answer(map[string]any{key: c.Channels, "interaction_sid": closing.Duplicate, "request_id": id}, func() error {
			for _, channel := range c.Channels {
				what := "closed: %s of %s, which was %s\n"
				if !yes {
					what = "would close %s of %s, which is %s\n"
				}
				if err := report(o.cmd, nil, what, terminal.Line(channel.SID), terminal.Line(closing.Duplicate), terminal.Line(channel.Status)); err != nil {
					return err
				}
			}
			return nil
		})
		if !yes {
			err = errors.Join(err, no("nothing was changed. Say --yes to do it"))
		}
		return err
	})
}

// idAndSID wants a request's id and an interaction's sid behind a command.
func idAndSID(cmd *cobra.Command, args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("%s takes the ID of a request and the sid of the duplicate, KD..., and %d words were given", cmd.CommandPath(), len(args))
	}
	return nil
}

// notClosed says in an operator's words why a duplicate was not closed, and what would.
func notClosed(err error, id string, a operator.Act, closing operator.Closing, c operator.Closure) error {
	name, sid := terminal.Line(id), terminal.Line(closing.Duplicate)
	switch {
	case errors.Is(err, operator.ErrNotSettled):
		return no("%s has not settled: a lookup may yet adopt %s; nothing was changed", name, sid)
	case errors.Is(err, operator.ErrOtherAttempt):
		return no("nothing was changed: %s", stale(c.Request, *a.Attempt))
	case errors.Is(err, operator.ErrStale):
		return no("%s has changed while Flex was asked: nothing was closed. `%s` tells where it stands", name, terminal.Command("worker", "explain", "--", id))
	case errors.Is(err, operator.ErrKept):
		return no("%s is the interaction of %s itself, and is kept: nothing was changed", sid, name)
	case errors.Is(err, operator.ErrShared):
		return no("%s: to close it would make the conversation of what is kept read-only, so nothing was changed", after(operator.ErrShared, err))
	case errors.Is(err, operator.ErrNotIts):
		return no("%s: nothing was changed (--unverified believes it where no other request keeps it)", after(operator.ErrNotIts, err))
	case errors.Is(err, operator.ErrNotShown):
		return no("%s is not shown by Flex: %s; nothing was changed", sid, after(operator.ErrNotShown, err))
	case errors.Is(err, operator.ErrClosed):
		return no("%s is closed already: there is nothing to close", sid)
	case errors.Is(err, operator.ErrNotClosed):
		return no("Flex refuses: %s; nothing was closed, and the act is recorded so", after(operator.ErrNotClosed, err))
	case errors.Is(err, operator.ErrMayBeClosed):
		return no("nobody knows whether %s is closed: %s. Do it again: what is closed already stays so", sid, after(operator.ErrMayBeClosed, err))
	case errors.Is(err, operator.ErrCannotAsk):
		return usage(fmt.Errorf("%w; nothing was changed", err))
	default:
		return unknownID(err, id)
	}
}
