package main

import (
	"context"

	"github.com/spf13/cobra"

	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/operator"
)

func gateCommand(name, short string, do func(*operator.Desk, context.Context, operator.Act) (operator.GateChange, error)) *cobra.Command {
	var a operator.Act
	cmd := &cobra.Command{Use: name + " --why ...", Short: short, Args: noArgs}
	actFlags(cmd, &a)
	return verb(cmd, func(ctx context.Context, o environment, _ []string) error {
		c, err := do(o.desk, ctx, a)
		if err != nil {
			return err
		}
		was := ""
		if c.Before.State == c.After.State {
			was = ", as before"
		}
		return o.answer(c.After, func() error {
			word := string(c.After.State)
			if c.After.State == gate.Open {
				word = "open"
			}
			return report(o.cmd, nil, "%s: the gate is now %s%s\n", name, word, was)
		})
	})
}
