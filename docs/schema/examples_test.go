package schema_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"flexworker/internal/testing/contract"
)

// pages are README and every page of docs.
func pages(t *testing.T) map[string]string {
	t.Helper()
	names, err := filepath.Glob("../*.md")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	texts := map[string]string{}
	for _, name := range append(names, "../../README.md") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		// What stands below "Try each answer" is wrong on purpose; cmd/worker tries it.
		page, after, _ := strings.Cut(string(text), "\n## Try each answer\n")
		_, rest, _ := strings.Cut(after, "\n## ")
		texts[filepath.Base(name)] = page + rest
	}
	return texts
}

// objects are the JSON objects that stand in a page, those within others left out.
func objects(page string) (list [][]byte) {
	for {
		from := strings.IndexByte(page, '{')
		if from < 0 {
			return list
		}
		page = page[from:]
		var object json.RawMessage
		if json.NewDecoder(strings.NewReader(page)).Decode(&object) == nil {
			list = append(list, object)
			page = page[len(object):]
		} else {
			page = page[1:]
		}
	}
}

// TestExamplesOfDocs: each JSON text that README or a page has is one, and what has the keys of a request or of a result is
// valid as such.
func TestExamplesOfDocs(t *testing.T) {
	t.Parallel()
	requests, results := 0, 0
	asked := map[string]string{} // by id
	for name, page := range pages(t) {
		for _, block := range strings.Split(page, "```json\n")[1:] {
			text, _, _ := strings.Cut(block, "```")
			if !json.Valid([]byte(text)) {
				t.Errorf("%s: not JSON: %s", name, text)
			}
		}
		for _, text := range objects(page) {
			var keys map[string]json.RawMessage
			if err := json.Unmarshal(text, &keys); err != nil {
				t.Fatal(err)
			}
			if keys["specversion"] != nil && keys["data"] != nil {
				text = keys["data"]
				keys = nil
				if err := json.Unmarshal(text, &keys); err != nil {
					t.Fatal(err)
				}
			}
			var err error
			switch {
			case keys["outcome"] != nil:
				results++
				err = contract.Result(text)
			case keys["channel"] != nil:
				requests++
				if err = contract.Request(text); keys["request_id"] != nil && err == nil {
					err = again(asked, keys)
				}
			}
			if err != nil {
				t.Errorf("%s: %v\n%s", name, err, bytes.TrimSpace(text))
			}
		}
	}
	if requests < 8 || results < 1 {
		t.Errorf("%d requests and %d results were found", requests, results)
	}
}

// again refuses a request under an id that another example has: whoever sends both gets a conflict.
func again(asked map[string]string, keys map[string]json.RawMessage) error {
	var same [4]any
	for i, name := range []string{"channel", "routing", "interaction_context_sid", "webhook_ttid"} {
		if keys[name] == nil {
			continue
		}
		if err := json.Unmarshal(keys[name], &same[i]); err != nil {
			return err
		}
	}
	text, err := json.Marshal(same)
	if err != nil {
		return err
	}
	id := string(keys["request_id"])
	if before, there := asked[id]; there && before != string(text) {
		return fmt.Errorf("another example asks for %s under the id %s", before, id)
	}
	asked[id] = string(text)
	return nil
}
