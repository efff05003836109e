package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"flexworker/internal/database"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/terminal"
)

// environment is what the operators' verbs share: the desk, and how to answer.
type environment struct {
	cmd    *cobra.Command
	desk   *operator.Desk
	asJSON bool
}

// operatorCommands are the verbs for people. Each translates one call of the desk.
func operatorCommands() []*cobra.Command {
	return []*cobra.Command{statusCommand(), listCommand(), showCommand(), explainCommand(), auditCommand(), fleetCommand(), rateCommand(),
		retryCommand(), bulkCommand("cancel", "End pending requests unsent; uncertain ones are never sent again, but may be adopted", operator.ToCancel),
		bulkCommand("lookup", "Look for the interactions of uncertain requests again now", operator.ToLookUp),
		bulkCommand("republish", "Publish results once more, under the message ids they have", operator.ToRepublish),
		recheckCommand(), resolveCommand(), eraseCommand(), closeCommand(), gateCommand("hold", "Stop the whole fleet from sending until it is released", (*operator.Desk).Hold),
		gateCommand("release", "Let the fleet send again, whoever stopped it; what waits behind a 429 is due at once", (*operator.Desk).Release)}
}

// jsonFlag gives a command the flag --json.
func jsonFlag(cmd *cobra.Command) *bool { return cmd.Flags().Bool("json", false, "answer in JSON") }

// verb gives a command the flag --json and opens the desk for it.
func verb(cmd *cobra.Command, do func(ctx context.Context, o environment, args []string) error) *cobra.Command {
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := textFault(cmd, args); err != nil {
			return usage(err)
		}
		dsn, err := loadSecret("DATABASE_URL")
		if err == nil && dsn.Value() == "" {
			err = errors.New("DATABASE_URL is required, such as postgres://worker@db/worker (or DATABASE_URL_FILE): a command wants the settings that the workers have; " +
				"while make demo ARGS=--stay runs, source the file that it names")
		}
		if err != nil {
			return usage(err)
		}
		pool, err := openPool(cmd.Context(), dsn, 2, peoplesTimeout, nil)
		if err != nil {
			return usage(err)
		}
		defer pool.Close()
		// Whoever the database lets in may act.
		desk := operator.NewDesk(pool, operator.Caller{Name: by(cmd), Right: operator.MayAct}, askFlex)
		err = noReason(cmd, do(cmd.Context(), environment{cmd, desk, *asJSON}, args))
		if holders := desk.WhoHolds(cmd.Context(), err); len(holders) > 0 {
			err = fmt.Errorf("%w. %s", err, terminal.Line(database.Named(holders)))
		}
		return fromDatabase(err)
	}
	return cmd
}

// by is who acts, as --by says; "": the command is no act.
func by(cmd *cobra.Command) string {
	name, _ := cmd.Flags().GetString("by") // without the flag it is no act
	return name
}

// noReason says in the words of the command line what an act leaves unsaid.
func noReason(cmd *cobra.Command, err error) error {
	if errors.Is(err, operator.ErrReason) {
		return usage(fmt.Errorf("--why: %s", after(operator.ErrReason, err)))
	}
	if !errors.Is(err, operator.ErrNoReason) {
		return err
	}
	if why, _ := cmd.Flags().GetString("why"); strings.TrimSpace(why) != "" && strings.TrimSpace(by(cmd)) != "" {
		return usage(errors.New("--why ... is what a printed command leaves for you to say: put the reason there; it is recorded"))
	}
	return usage(errors.New("--why and --by must not be empty: both are recorded"))
}

// answer prints v as JSON, or what text prints.
func (o environment) answer(v any, text func() error) error {
	if !o.asJSON {
		return text()
	}
	return writeJSON(o.cmd, v)
}

// writeJSON answers in JSON, in which everything can be seen.
func writeJSON(cmd *cobra.Command, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := cmd.OutOrStdout().Write(terminal.JSON(b.Bytes()))
	return err
}

// filterFlags are how requests are chosen.
func filterFlags(cmd *cobra.Command, f *operator.Filter) {
	cmd.Flags().StringVar((*string)(&f.State), "state", "", "only those in this state")
	_ = cmd.RegisterFlagCompletionFunc("state", completeStates) // the flag exists: it was just made
	cmd.Flags().StringVar(&f.Source, "source", "", "only those of this source")
	cmd.Flags().StringVar(&f.ErrorKind, "error-kind", "", "only those with this reason, such as http_400")
	cmd.Flags().Var((*days)(&f.OlderThan), "older-than", "only those received longer ago than this, "+durationForm)
	cmd.Flags().Var((*days)(&f.Since), "settled-within", "only those settled within this time before now, "+durationForm)
	cmd.Flags().IntVar(&f.Limit, "limit", 0, "at most so many requests (default 0: all)")
}

// filterFault names what would choose nothing, or everything, silently.
func filterFault(f operator.Filter) error {
	switch {
	case f.Limit < 0:
		return usage(errors.New("--limit must not be negative"))
	case f.OlderThan < 0:
		return usage(errors.New("--older-than must not be negative"))
	case f.Since < 0:
		return usage(errors.New("--settled-within must not be negative"))
	case f.Setup != "" && !slices.Contains(operator.SetupFilters[:], f.Setup):
		return usage(fmt.Errorf("--setup %s: it is one of %s", terminal.Line(string(f.Setup)), strings.Join(setupNames(), ", ")))
	}
	if f.State == "" {
		return nil
	}
	names := make([]string, len(request.States))
	for i, s := range request.States {
		if names[i] = string(s); s == f.State {
			return nil
		}
	}
	near := ""
	if alike := alike(string(f.State), names); alike != "" {
		near = ": did you mean " + alike + "?"
	}
	return usage(fmt.Errorf("--state %s: the states are %s%s", terminal.Line(string(f.State)), strings.Join(names, ", "), near))
}

// setupNames are the values of --setup.
func setupNames() []string {
	names := make([]string, len(operator.SetupFilters))
	for i, f := range operator.SetupFilters {
		names[i] = string(f)
	}
	return names
}

func listCommand() *cobra.Command {
	var f operator.Filter
	cmd := &cobra.Command{Use: "list", Short: "List requests, the newest first", Args: noArgs}
	filterFlags(cmd, &f)
	cmd.Flags().StringVar((*string)(&f.Setup), "setup", "", "only created ones whose channel, as CONFIRM found, is failed, unconfirmed, confirmed or still waiting")
	_ = cmd.RegisterFlagCompletionFunc("setup", cobra.FixedCompletions(setupNames(), cobra.ShellCompDirectiveNoFileComp)) // the flag exists: it was just made
	cmd.Flags().Lookup("limit").Usage = fmt.Sprintf("at most so many requests (default 0: %d)", operator.ListMost)
	return verb(cmd, func(ctx context.Context, o environment, _ []string) error {
		if err := filterFault(f); err != nil {
			return err
		}
		rows, err := o.desk.List(ctx, f)
		if err != nil {
			return err
		}
		if most := cmp.Or(f.Limit, operator.ListMost); len(rows) == most {
			fmt.Fprintf(o.cmd.ErrOrStderr(), "the %d newest are shown, there may be more: --limit shows them, the other flags choose\n", most)
		}
		return o.answer(rows, func() error {
			var b bytes.Buffer
			below := make([]string, len(rows))
			w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "RECEIVED\tSTATE\tATTEMPT\tREASON\tSOURCE\tREQUEST_ID")
			for i, r := range rows {
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\n", r.ReceivedAt.UTC().Format("2006-01-02 15:04:05"), r.State, r.Attempt,
					orDash(r.ErrorKind), short(r.Source, 16), terminal.Line(r.RequestID))
				switch {
				case r.InteractionSID != nil:
					below[i] = terminal.Line(*r.InteractionSID)
				case r.ErrorMessage != nil:
					below[i] = short(*r.ErrorMessage, 96)
				}
			}
			_ = w.Flush() // into memory
			return withBelow(o.cmd.OutOrStdout(), b.String(), below)
		})
	})
}

// withBelow prints a table with a heading, and below each of its rows what belongs to it; ""
// is no line. Within the table such a line would end the columns.
func withBelow(out io.Writer, table string, below []string) error {
	i := -1 // the heading
	for row := range strings.Lines(table) {
		if i >= 0 && below[i] != "" {
			row += "    " + below[i] + "\n"
		}
		if _, err := io.WriteString(out, row); err != nil {
			return err
		}
		i++
	}
	return nil
}

// orDash is one word for a column; a dash for nothing.
func orDash(s *string) string {
	if s == nil {
		return "-"
	}
	return short(*s, 20)
}

// short is a text of others for a place of so many columns; what it leaves out is marked.
func short(text string, columns int) string {
	runes := []rune(terminal.Line(text))
	if len(runes) <= columns {
		return string(runes)
	}
	return string(runes[:columns-1]) + "…"
}

func showCommand() *cobra.Command {
	return verb(&cobra.Command{Use: "show ID", Short: "Show all that is known of a request, its attempts and lookups", Args: one("ID"), ValidArgsFunction: completeIDs(1)},
		func(ctx context.Context, o environment, args []string) error {
			d, err := o.detail(ctx, args[0])
			if err != nil {
				return err
			}
			o.asJSON = true // there is no better form for all of it
			return o.answer(d, nil)
		})
}

func (o environment) detail(ctx context.Context, id string) (operator.Detail, error) {
	d, err := o.desk.Show(ctx, id)
	return d, unknownID(err, id)
}

// unknownID says in an operator's words that no request has an id.
func unknownID(err error, id string) error {
	if errors.Is(err, operator.ErrUnknown) {
		return no("no request has the id %q; `worker list` shows which there are, and outbox_malformed has what could not become one", id)
	}
	return err
}

func explainCommand() *cobra.Command {
	return verb(&cobra.Command{Use: "explain ID", Short: "Say in prose what happened to a request, why it is where it is, and what comes next", Args: one("ID"), ValidArgsFunction: completeIDs(1)},
		func(ctx context.Context, o environment, args []string) error {
			text, err := o.desk.Explain(ctx, args[0])
			if err != nil {
				return unknownID(err, args[0])
			}
			return o.answer(map[string]string{"request_id": args[0], "explanation": text}, func() error {
				_, err := fmt.Fprint(o.cmd.OutOrStdout(), text)
				return err
			})
		})
}
