package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/terminal"
)

func eraseCommand() *cobra.Command {
	var a operator.Act
	var yes bool
	cmd := &cobra.Command{Use: "erase ID", Short: "Blank what is personal in a settled request; its id, sids, states and times stay", Args: one("ID"), ValidArgsFunction: completeIDs(1),
		Long: "Blank what is personal in a settled request; its id, sids, states and times stay.\n\n" +
			"In all tables: the request, Flex's answer, the bytes and headers of messages under its id, what\n" +
			"was wrong, reasons of failures, reasons of acts. This cannot be undone, and the request is never\n" +
			"sent again. Refused until it has settled and every answer about it is published. A message that\n" +
			"comes under its id later is a conflict, whatever it asks: erase it once more for that.\n" +
			"--why is kept: do not name the person there."}
	actFlags(cmd, &a)
	attempt := attemptFlag(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "really erase")
	return verb(cmd, func(ctx context.Context, o environment, args []string) (err error) {
		if a.Attempt, err = attempt(); err != nil {
			return err
		}
		if !yes {
			d, err := o.detail(ctx, args[0])
			if err != nil {
				return err
			}
			err = o.answer(map[string]any{"would_erase": d.RequestID, "state": d.State, "unreached": operator.Erasure{}.Unreached()}, func() error {
				return report(o.cmd, o.unreached(operator.Erasure{}), "would erase the content of %s, which is %s\n", terminal.Line(d.RequestID), d.State)
			})
			return errors.Join(err, no("nothing was changed. It cannot be undone: say --yes to do it"))
		}
		e, err := o.desk.Erase(ctx, a, args[0])
		if err != nil {
			return o.notErased(ctx, err, args[0], a)
		}
		answer := map[string]any{"erased": args[0], "messages": append([]operator.Asking{}, e.Messages...), "unreached": e.Unreached()}
		return o.answer(answer, func() error {
			return report(o.cmd, o.unreached(e), "erased: the content of %s\n", terminal.Line(args[0]))
		})
	})
}

// unreached prints, beside the answer, where what is erased may still stand.
func (o environment) unreached(e operator.Erasure) error {
	_, err := fmt.Fprintln(o.cmd.ErrOrStderr(), "This is not reached, and has to be erased elsewhere:")
	for _, place := range e.Unreached() {
		if err == nil {
			_, err = fmt.Fprintln(o.cmd.ErrOrStderr(), "    "+terminal.Line(place))
		}
	}
	return err
}

// notErased says in an operator's words why nothing was erased, and what to do.
func (o environment) notErased(ctx context.Context, err error, id string, a operator.Act) error {
	name := terminal.Line(id)
	switch {
	case errors.Is(err, operator.ErrNotSettled):
		return no("%s has not settled, so its content is still needed: nothing was changed. `%s` tells where it stands, and `%s` stops it", name,
			terminal.Command("worker", "explain", "--", id), terminal.Command("worker", "cancel", "--why", "...", "--", id))
	case errors.Is(err, operator.ErrUnanswered):
		return no("an answer about %s is not on the result stream yet, and would go out blank: nothing was changed. Try it again when it is published", name)
	case errors.Is(err, operator.ErrOtherAttempt):
		d, shown := o.detail(ctx, id)
		if shown != nil {
			return shown
		}
		return no("nothing was changed: %s", stale(d, *a.Attempt))
	default:
		return unknownID(err, id)
	}
}
