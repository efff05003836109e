// Command worker creates Twilio Flex interactions for the requests that arrive
// on a JetStream stream. README and docs/ say how it is run; `worker --help` lists the
// commands.
//
// `worker run` is run.go: build joins the parts, which packages outbox, consumer, flex and senders have; then the
// schema and the streams are waited for, and serve (stop.go) runs the loops. They are stopped along a request's way: consumer,
// Dispatcher, Resolver, Upkeep and Confirmer first, the Publisher last, when nobody settles any more. What is not
// over within SHUTDOWN_GRACE is left to other replicas. Settings are config.go; each other file is a command, or what
// commands share. All that people ask or do goes through operator.Desk.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/spf13/cobra"
)

// These are set when the program is linked: its version, and the commit that it was built from with the date of that commit, "" where
// nobody said. Two builds of one commit are the same, so it is not the date of the build.
var (
	version = "development"
	commit  string
	date    string
)

// gcPercent lets the heap grow to three and a half times what lives: that is some 10 MiB
// at full load. At 200 its collection had taken a seventh of the worker's processor time,
// when there was more garbage; at 400 the process takes more than 80 MiB. GOGC overrides it.
const gcPercent = 250

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	ctx, stop := untilSignal()
	status := execute(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// execute runs one command line and returns the exit status of the process.
func execute(ctx context.Context, args []string, out, errs io.Writer) int {
	cmd := root(out, errs)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	if err != nil {
		sayLast(errs, err)
	}
	return exitStatus(err)
}

// memoryRatio is the part of the container's memory that Go may use: the rest is for
// stacks of threads, the binary's own pages and what the kernel counts.
const memoryRatio = 0.9

// limitMemory has the collector keep the process within the limit of its control group,
// which Go does not look at; near it the heap grows by less than gcPercent. GOMEMLIMIT
// overrides it, and AUTOMEMLIMIT_REFRESH and the like are left to the library.
func limitMemory(log *slog.Logger) {
	limit, err := memlimit.Set(memlimit.WithProvider(memlimit.FromCgroup), memlimit.WithRatio(memoryRatio))
	switch {
	case err != nil: // there is no control group here
		log.Debug("no memory limit is taken from the control group", "error", err)
	case limit < math.MaxInt64:
		log.Info("memory", "limit_bytes", limit)
	}
}

// untilSignal is a context that SIGTERM or SIGINT ends; the second one ends the
// process at once.
func untilSignal() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	go func() { // lives as long as the process
		<-signals
		cancel()
		<-signals
		os.Exit(1)
	}()
	return ctx, cancel
}

// helpColumns is how wide a page of help is at most: a terminal beside another window.
const helpColumns = 100

// usageTemplate is cobra's with flags that fit the page, and with what each command's exit
// status means.
func usageTemplate(cobras string) string {
	wrapped := strings.ReplaceAll(cobras, ".FlagUsages ", fmt.Sprintf(".FlagUsagesWrapped %d ", helpColumns))
	return wrapped + "\nExit status: 0 done, 1 the answer is no, 2 the command line or the settings are at fault,\n3 a server is away.\n"
}

// root is the command line. Answers go to out, the log to errs.
func root(out, errs io.Writer) *cobra.Command {
	serve := func(cmd *cobra.Command, _ []string) error {
		cfg, err := loadConfig()
		if err != nil {
			return usage(fmt.Errorf("the settings have faults:\n%w", err))
		}
		// A write to a pipe whose reader has ended fails, in place of ending the process. Verbs
		// keep the signal: `worker list | head` ends quietly.
		signal.Ignore(syscall.SIGPIPE)
		lines := newLogBuffer(errs, cfg.LogLevel, cfg.LogFormat)
		defer lines.Close()
		log := newLog(lines, cfg.LogLevel, cfg.LogFormat)
		slog.SetDefault(log) // and with it what libraries write by the package log
		limitMemory(log)
		for _, name := range unknownSettings() {
			log.Warn(unknownSetting, "name", name)
		}
		return run(cmd.Context(), cfg, log, lines)
	}
	cmd := &cobra.Command{
		Use:   "worker",
		Short: "Creates Twilio Flex interactions for requests from NATS JetStream",
		Long: "Creates Twilio Flex interactions for requests from NATS JetStream: as far as it can be known\n" +
			"never two for one request, and an answer for each. Without a command it runs the worker.\n" +
			"Settings come from the environment; `worker config` shows them all.",
		Args: subcommand, SilenceUsage: true, SilenceErrors: true, RunE: serve, Version: version,
	}
	cmd.SetVersionTemplate(built() + "\n") // as the command version prints it
	cmd.SetUsageTemplate(usageTemplate(cmd.UsageTemplate()))
	cmd.SetOut(out)
	cmd.SetErr(errs)
	cmd.AddCommand(
		&cobra.Command{Use: "run", Short: "Run the worker until SIGTERM (the same as no command)", Args: noArgs, RunE: serve},
		migrateCommand(), configCommand(), doctorCommand(), sendCommand(), healthcheckCommand(),
		versionCommand(), schemaCommand(),
	)
	cmd.AddCommand(operatorCommands()...)
	cmd.SetFlagErrorFunc(flagFault)
	cmd.InitDefaultHelpCmd()
	if help, _, err := cmd.Find([]string{"help"}); err == nil && help != cmd {
		help.Args = helpTopic
	}
	cmd.InitDefaultCompletionCmd()
	if completion, _, err := cmd.Find([]string{"completion"}); err == nil && completion != cmd {
		completion.Args = subcommand
		completion.RunE = func(*cobra.Command, []string) error {
			return usage(errors.New("say for which shell: completion bash, zsh, fish or powershell"))
		}
	}
	markRun(cmd)
	return cmd
}
