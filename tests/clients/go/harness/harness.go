// Package harness is what the Go programs share: where the runtime is, and the report of their checks.
package harness

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	Default  = "micro-kiki"
	Fast     = "micro-kiki-fast"
	Base     = "micro-kiki-base"
	Embedder = "all-mpnet-base-v2"
	Question = "What is the capital of France?"
	Story    = "Write a long story about a village by a river."
	Weather  = `{"type":"object","properties":{"city":{"type":"string","enum":["Paris","Rome"]}},"required":["city"]}`
	Nested   = `{"type":"object","properties":{"place":{"$ref":"#/$defs/Place"},"rain":{"type":"boolean"}},` +
		`"required":["place","rain"],"$defs":{"Place":{"type":"object","properties":` +
		`{"city":{"type":"string","enum":["Paris","Rome"]}},"required":["city"]}}}`
)

var (
	Host    = os.Getenv("RUNTIME_URL")
	URL     = Host + "/v1"
	Key     = os.Getenv("RUNTIME_KEY")
	TooLong = strings.Repeat("north south east west ", 2500)
	report  = map[string]*string{}
)

// Check runs the function and notes under the name what went wrong; with arguments only the checks that they name.
func Check(name string, try func()) {
	if len(os.Args) > 1 && !slices.Contains(os.Args[1:], name) {
		return
	}
	started := time.Now()
	report[name] = run(try)
	outcome := "held"
	if report[name] != nil {
		outcome = *report[name]
	}
	fmt.Fprintf(os.Stderr, "%6.2f s  %s: %s\n", time.Since(started).Seconds(), name, outcome)
}

func run(try func()) (problem *string) {
	defer func() {
		if fault := recover(); fault != nil {
			text := fmt.Sprint(fault)
			problem = &text
		}
	}()
	try()
	return nil
}

// Finish prints the report.
func Finish() {
	text, err := json.Marshal(report)
	Must(err)
	fmt.Println(string(text))
}

// Must ends a check that met an error.
func Must(err error) {
	if err != nil {
		panic(err)
	}
}

// That ends a check whose condition does not hold.
func That(holds bool, format string, values ...any) {
	if !holds {
		panic(fmt.Sprintf(format, values...))
	}
}

// Paris ends a check whose text does not name the city.
func Paris(text string) {
	That(strings.Contains(text, "Paris"), "no Paris in %q", text)
}

// Arguments ends a check whose call has other arguments than the keys.
func Arguments(text string, keys ...string) {
	var values map[string]any
	if err := json.Unmarshal([]byte(text), &values); err != nil {
		panic(fmt.Sprintf("%q: %v", text, err))
	}
	That(len(values) == len(keys), "%q has other keys than %v", text, keys)
	for _, key := range keys {
		That(values[key] != nil, "%q has no %s", text, key)
	}
}

// CancelTurn has the newest turn cancelled: its stream ends in an error.
func CancelTurn() {
	reply, err := http.Post(os.Getenv("CANCEL_URL"), "", nil)
	Must(err)
	reply.Body.Close()
}

// Idle waits until no turn is in flight, at most five seconds.
func Idle() {
	var health struct {
		Turns int `json:"turns_in_flight"`
	}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		reply, err := http.Get(Host + "/health")
		Must(err)
		err = json.NewDecoder(reply.Body).Decode(&health)
		reply.Body.Close()
		Must(err)
		if health.Turns == 0 {
			return
		}
	}
	panic(fmt.Sprintf("%d turns still run", health.Turns))
}
