package main

import (
	"bytes"
	"os"
	"testing"
)

// TestSchema: the three documents are printed as they stand in docs/schema, without settings and without a server.
func TestSchema(t *testing.T) {
	t.Parallel()
	for name, file := range map[string]string{"request": "request.json", "result": "result.json", "asyncapi": "asyncapi.yaml"} {
		want, err := os.ReadFile("../../docs/schema/" + file)
		if err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		cmd := root(&out, &errs)
		cmd.SetArgs([]string{"schema", name})
		if err := cmd.ExecuteContext(t.Context()); err != nil || !bytes.Equal(out.Bytes(), want) || errs.Len() > 0 {
			t.Errorf("worker schema %s: %v, %d bytes where %s has %d: %s", name, err, out.Len(), file, len(want), errs.String())
		}
	}
}
