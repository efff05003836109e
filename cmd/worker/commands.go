package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"flexworker/internal/terminal"
	"flexworker/migrations"
)

func migrateCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "migrate up | down | status", Args: subcommand, RunE: func(*cobra.Command, []string) error {
		return usage(errors.New("say which: migrate up, migrate down or migrate status"))
	}, Short: "Bring the schema up to date, take a step back, or show where it stands"}
	asJSON := cmd.PersistentFlags().Bool("json", false, "answer in JSON")
	var yes bool
	down := &cobra.Command{Use: "down", Short: "Take the latest migration back; says first what it drops", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dsn, err := databaseURL()
			if err != nil {
				return err
			}
			if !yes {
				step, tables, err := migrations.Drops(cmd.Context(), dsn)
				switch {
				case err != nil:
					return err
				case step == "":
					return report(cmd, nil, "nothing to take back: the database has no migrations\n")
				case len(tables) == 0:
					return no("this takes %s back; it drops no table and no row; say --yes if you mean it", step)
				}
				return no("this takes %s back and drops %s with all rows; say --yes if you mean it", step, strings.Join(tables, " and "))
			}
			step, err := migrations.Down(cmd.Context(), dsn)
			if err == nil && *asJSON {
				return writeJSON(cmd, map[string]string{"taken_back": step})
			}
			if err == nil && step == "" {
				step = "nothing: the database has no migrations"
			}
			return report(cmd, err, "taken back: %s\n", step)
		}}
	down.Flags().BoolVar(&yes, "yes", false, "really drop what the step created")
	cmd.AddCommand(down,
		&cobra.Command{Use: "up", Short: "Take every migration that is missing", Args: noArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				dsn, err := databaseURL()
				if err != nil {
					return err
				}
				steps, err := migrations.Up(cmd.Context(), dsn)
				if err == nil && *asJSON {
					return writeJSON(cmd, map[string]int{"taken": steps})
				}
				return report(cmd, err, "migrations taken: %d; the schema is up to date\n", steps)
			}},
		&cobra.Command{Use: "status", Short: "List the migrations and whether the database has them", Args: noArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				dsn, err := databaseURL()
				if err != nil {
					return err
				}
				steps, err := migrations.Status(cmd.Context(), dsn)
				if err == nil && *asJSON {
					type row struct {
						Name    string `json:"name"`
						Applied bool   `json:"applied"`
					}
					rows := make([]row, len(steps))
					for i, s := range steps {
						rows[i] = row{s.Name, s.Applied}
					}
					return writeJSON(cmd, rows)
				}
				for _, s := range steps {
					word := "missing"
					if s.Applied {
						word = "applied"
					}
					err = report(cmd, err, "%-8s %s\n", word, s.Name)
				}
				return err
			}})
	for _, c := range cmd.Commands() {
		run := c.RunE
		c.RunE = func(cmd *cobra.Command, args []string) error { return fromDatabase(run(cmd, args)) }
	}
	return cmd
}

// report prints a line unless there is an error to return.
func report(cmd *cobra.Command, err error, format string, args ...any) error {
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), format, args...)
	return err
}

// databaseURL is the one setting that migrations need.
func databaseURL() (string, error) {
	s, err := loadSecret("DATABASE_URL")
	if err == nil && s.Value() == "" {
		err = errors.New("DATABASE_URL is required, such as postgres://worker@db/worker (or DATABASE_URL_FILE)")
	} else if problem := databaseProblem(s.Value()); err == nil && problem != "" {
		err = fmt.Errorf("DATABASE_URL %s", problem)
	}
	return s.Value(), usage(err)
}

// built is the version in one line, with what is known of where it comes from.
func built() string {
	line := "flexworker " + version
	if commit != "" {
		line += ", commit " + commit
	}
	if date != "" {
		line += ", " + date
	}
	return line
}

func versionCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "version", Short: "Print the version, the commit that it was built from, and the date of that", Args: noArgs}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *asJSON {
			return writeJSON(cmd, map[string]string{"name": "flexworker", "version": version, "commit": commit, "date": date, "go": runtime.Version()})
		}
		return report(cmd, nil, "%s\n", built())
	}
	return cmd
}

func configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Print the settings in force, secrets hidden, and what is wrong with them", Args: noArgs}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, faults := loadConfig()
		if *asJSON {
			answer := struct {
				Settings []setting `json:"settings"`
				Unknown  []string  `json:"unknown"` // names that look like settings
				Faults   []string  `json:"faults"`
			}{settings(cfg), append([]string{}, unknownSettings()...), []string{}}
			if faults != nil {
				answer.Faults = strings.Split(faults.Error(), "\n")
			}
			if err := writeJSON(cmd, answer); err != nil {
				return err
			}
		} else if err := printSettings(cmd, cfg); err != nil {
			return err
		}
		if faults != nil {
			return usage(fmt.Errorf("the settings have faults:\n%w", faults))
		}
		return nil
	}
	return cmd
}

func printSettings(cmd *cobra.Command, cfg Config) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, s := range settings(cfg) {
		if _, err := fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.Name, terminal.Line(s.Value), s.From, s.Doc); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, name := range unknownSettings() {
		if _, err := fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", name, unknownSetting); err != nil {
			return err
		}
	}
	return nil
}

func healthcheckCommand() *cobra.Command {
	var ready bool
	var asJSON *bool
	cmd := &cobra.Command{Use: "healthcheck", Short: "Ask the worker on this machine whether it runs; for a container without a shell", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			address, set := os.LookupEnv("ADMIN_ADDR")
			if !set {
				address = ":8080"
			}
			if address = strings.TrimSpace(address); address == "" {
				if *asJSON {
					return writeJSON(cmd, map[string]any{"healthy": nil})
				}
				return report(cmd, nil, "ADMIN_ADDR is empty: this worker serves no health, so there is nothing to ask\n")
			}
			path := "/healthz"
			if ready {
				path = "/readyz"
			}
			err := healthcheck(cmd.Context(), address, path)
			if *asJSON {
				err = errors.Join(writeJSON(cmd, map[string]bool{"healthy": err == nil}), err)
			}
			return err
		}}
	asJSON = jsonFlag(cmd)
	cmd.Flags().BoolVar(&ready, "ready", false, "ask whether it is ready, rather than whether it runs")
	return cmd
}

func healthcheck(ctx context.Context, address, path string) error {
	if problem := adminProblem(address); problem != "" {
		return usage(errors.New(problem))
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err // unreachable: it was split before
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+path, nil)
	if err != nil {
		return err
	}
	// Straight to the address: HTTP_PROXY would lead away from this machine, and a URL
	// would want the zone of an IPv6 address spelled in its own way.
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, port))
		},
	}}
	response, err := client.Do(r)
	if err != nil {
		return fmt.Errorf("no worker answers at ADMIN_ADDR=%s: %w", address, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return no("%s answered %s", path, response.Status)
	}
	return nil
}
