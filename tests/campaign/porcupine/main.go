// Linearizable asks porcupine whether a history is strictly serializable.
//
// Standard input has one operation a line, as JSON. The records of one group change and are read together, so a
// group is the unit that is checked: its state is what each store has of it, and a transaction is one step of it.
// Standard output has one line a group: {"group": "l0", "result": "Ok", "operations": 17}.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// A cell is what one store has of a group: how often it was written, and by whom last.
type cell struct {
	N    int
	Last string
}

const most = 8 // stores

type state [most]cell

// An operation writes or reads its stores; Seen is what it found there, or nil for who never heard.
type operation struct {
	Group   string          `json:"group"`
	Process int             `json:"process"`
	Kind    string          `json:"kind"`
	Key     string          `json:"key"`
	Stores  []int           `json:"stores"`
	Seen    map[string]cell `json:"seen"`
	Call    int64           `json:"call"`
	Return  int64           `json:"return"`
}

func step(before, input, _ interface{}) (bool, interface{}) {
	now, op := before.(state), input.(operation)
	for _, store := range op.Stores {
		if op.Kind == "write" {
			now[store] = cell{now[store].N + 1, op.Key}
		}
		if seen, told := op.Seen[fmt.Sprint(store)]; told && seen != now[store] {
			return false, before
		}
	}
	return true, now
}

var model = porcupine.Model{
	Init: func() interface{} { return state{} },
	Step: step,
	DescribeOperation: func(input, _ interface{}) string {
		op := input.(operation)
		return fmt.Sprintf("%s %s of %v: %v", op.Kind, op.Key, op.Stores, op.Seen)
	},
}

func read() map[string][]porcupine.Operation {
	groups := map[string][]porcupine.Operation{}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(make([]byte, 1<<20), 1<<20)
	for lines.Scan() {
		var op operation
		if err := json.Unmarshal(lines.Bytes(), &op); err != nil {
			fail(fmt.Errorf("%s: %w", strings.TrimSpace(lines.Text()), err))
		}
		groups[op.Group] = append(groups[op.Group], porcupine.Operation{
			ClientId: op.Process, Input: op, Call: op.Call, Return: op.Return,
		})
	}
	if err := lines.Err(); err != nil {
		fail(err)
	}
	return groups
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(2)
}

func main() {
	patience := flag.Duration("timeout", time.Minute, "how long to look at one group")
	drawings := flag.String("drawings", "", "folder for a page that shows each group that fails")
	flag.Parse()
	groups := read()
	names := make([]string, 0, len(groups))
	for name := range groups {
		names = append(names, name)
	}
	sort.Strings(names)
	out := json.NewEncoder(os.Stdout)
	for _, name := range names {
		result, info := porcupine.CheckOperationsVerbose(model, groups[name], *patience)
		if result != porcupine.Ok && *drawings != "" {
			if err := porcupine.VisualizePath(model, info, filepath.Join(*drawings, name+".html")); err != nil {
				fail(err)
			}
		}
		verdict := map[string]interface{}{"group": name, "result": result, "operations": len(groups[name])}
		if err := out.Encode(verdict); err != nil {
			fail(err)
		}
	}
}
