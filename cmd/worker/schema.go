package main

import (
	"errors"

	"github.com/spf13/cobra"

	"flexworker/docs/schema"
)

func schemaCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "schema request | result | asyncapi", Args: subcommand,
		Short: "Print the JSON Schema of a request or of a result, or the AsyncAPI document",
		Long: "Print what services send and read, as JSON Schema 2020-12 and as an AsyncAPI 3.0 document. The\n" +
			"document refers to the schemas as request.json and result.json, files beside it.",
		RunE: func(*cobra.Command, []string) error {
			return usage(errors.New("say which: schema request, schema result or schema asyncapi"))
		}}
	for _, s := range []struct {
		name, short string
		text        []byte
	}{
		{"request", "Print the JSON Schema of what a service sends", schema.Request},
		{"result", "Print the JSON Schema of what a service reads", schema.Result},
		{"asyncapi", "Print the AsyncAPI document of the subjects, in YAML", schema.AsyncAPI},
	} {
		cmd.AddCommand(&cobra.Command{Use: s.name, Short: s.short, Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(s.text)
			return err
		}})
	}
	return cmd
}
