package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/prometheus/common/model"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/terminal"
)

// days is a duration as people type it: Go's form, or days and weeks such as 3d or 2w.
type days time.Duration

// durationForm is what the help of each flag of this type says.
const durationForm = "such as 90m, 12h, 3d or 2w"

// String is the duration in Go's form.
func (d *days) String() string {
	if *d == 0 {
		return "0" // which --help does not print as a default
	}
	return time.Duration(*d).String()
}

// Type is the word for it in --help.
func (d *days) Type() string { return "duration" }

// Set reads it.
func (d *days) Set(text string) error {
	if plain, err := time.ParseDuration(text); err == nil {
		*d = days(plain)
		return nil
	}
	long, err := model.ParseDuration(text)
	if err != nil {
		return errors.New("not a duration " + durationForm + "; a number needs its unit")
	}
	*d = days(long)
	return nil
}

// alike is the name that somebody who typed text may have meant; "" when none is near.
func alike(text string, names []string) string {
	known := &cobra.Command{SuggestionsMinimumDistance: 2} // which measures the nearness of names
	for _, name := range names {
		known.AddCommand(&cobra.Command{Use: name, Run: func(*cobra.Command, []string) {}})
	}
	if found := known.SuggestionsFor(text); len(found) > 0 {
		return found[0]
	}
	return ""
}

// noArgs refuses words behind a command that takes none.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no arguments, and %q is one", cmd.CommandPath(), terminal.Line(args[0]))
	}
	return nil
}

// one wants exactly one word behind a command, which its usage calls what.
func one(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return fmt.Errorf("%s takes one %s, and %d were given", cmd.CommandPath(), what, len(args))
		}
		return nil
	}
}

// flagFault says in our words what is wrong with a flag's value: the library would give Go's.
func flagFault(_ *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return err
	}
	name, value := invalid.GetFlag().Name, terminal.Line(invalid.GetValue())
	switch invalid.GetFlag().Value.Type() {
	case "int":
		return fmt.Errorf("--%s %q: not a whole number", name, value)
	case "bool":
		return fmt.Errorf("--%s %q: either true or false", name, value)
	default:
		return err
	}
}

// textFault names what was typed and is not UTF-8, as which Postgres keeps every text: no id, source
// or reason has such bytes.
func textFault(cmd *cobra.Command, args []string) (err error) {
	for _, arg := range args {
		if !utf8.ValidString(arg) {
			return fmt.Errorf("%q is not UTF-8 text", arg)
		}
	}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if !utf8.ValidString(f.Value.String()) {
			err = fmt.Errorf("--%s %q is not UTF-8 text", f.Name, f.Value.String())
		}
	})
	return err
}

// helpTopic refuses to help with a command that there is not.
func helpTopic(help *cobra.Command, args []string) error {
	found, rest, err := help.Root().Find(args)
	if err != nil {
		return err
	}
	return subcommand(found, rest)
}

// subcommand refuses a word that is no command, and names the one that may be meant.
func subcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	near := ""
	if found := cmd.SuggestionsFor(args[0]); len(found) > 0 {
		near = fmt.Sprintf("; did you mean %q?", cmd.CommandPath()+" "+found[0])
	}
	return fmt.Errorf("unknown command %q for %q%s", terminal.Line(args[0]), cmd.CommandPath(), near)
}

// completeStates offers the states of a request to the shell.
func completeStates(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	names := make([]string, len(request.States))
	for i, s := range request.States {
		names[i] = string(s)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

const (
	// completeMost is how many ids are offered.
	completeMost = 50
	// completeWithin is how long a person who pressed Tab waits for the database.
	completeWithin = 2 * time.Second
)

// completeIDs offers ids that begin with what was typed, for commands
// that take at most most ids; 0: any number. Without a database it offers none.
func completeIDs(most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		dsn, err := loadSecret("DATABASE_URL")
		if err != nil || dsn.Value() == "" {
			return nil, cobra.ShellCompDirectiveError
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeWithin)
		defer cancel()
		pool, err := openPool(ctx, dsn, 1, statementTimeout, nil)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		defer pool.Close()
		ids, err := operator.NewDesk(pool, operator.Caller{Right: operator.MayLook}, nil).IDs(ctx, typed, completeMost)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		// A shell would show the others as they are.
		ids = slices.DeleteFunc(ids, func(id string) bool { return terminal.Line(id) != id })
		return ids, cobra.ShellCompDirectiveNoFileComp
	}
}
