package adopt

import (
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ErrLayout says that a document is written in a way that nodes can't be added to without writing it anew.
var ErrLayout = errors.New("nodes: is not a list with a node on lines of its own")

// Insert adds nodes at the end of a document's list of nodes. Every line that was there stays as it is, comments and layout too.
func Insert(document []byte, nodes []Node) ([]byte, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(document, &root); err != nil {
		return nil, fmt.Errorf("cannot add nodes: %w", err)
	}
	list, end, err := findNodes(&root)
	if err != nil {
		return nil, fmt.Errorf("cannot add nodes: %w", err)
	}
	newline := "\n"
	if strings.Contains(string(document), "\r\n") {
		newline = "\r\n"
	}
	lines := strings.SplitAfter(string(document), "\n")
	if last := len(lines) - 1; lines[last] == "" {
		lines = lines[:last]
	} else {
		lines[last] += newline
	}
	at := len(lines)
	if end > 0 {
		at = end - 1
	}
	at = above(lines, at, list.Line)
	dash := strings.Repeat(" ", list.Column-1)
	var out strings.Builder
	for _, line := range lines[:at] {
		out.WriteString(line)
	}
	for _, n := range nodes {
		for i, line := range n.Lines {
			lead := dash + "  "
			if i == 0 {
				lead = dash + "- "
			}
			out.WriteString(lead + line + newline)
		}
	}
	for _, line := range lines[at:] {
		out.WriteString(line)
	}
	return []byte(out.String()), nil
}

// findNodes finds the list, and the line where what follows it in the document begins; 0: nothing does.
func findNodes(root *yaml.Node) (list *yaml.Node, end int, err error) {
	if root.Kind != yaml.DocumentNode || len(root.Content) != 1 || root.Content[0].Kind != yaml.MappingNode {
		return nil, 0, ErrLayout
	}
	top := root.Content[0]
	for i := 0; i+1 < len(top.Content); i += 2 {
		if top.Content[i].Value != "nodes" {
			continue
		}
		list = top.Content[i+1]
		if i+2 < len(top.Content) {
			end = top.Content[i+2].Line
		}
	}
	if list == nil || list.Kind != yaml.SequenceNode || list.Style&yaml.FlowStyle != 0 || len(list.Content) == 0 || top.Style&yaml.FlowStyle != 0 {
		return nil, 0, ErrLayout
	}
	return list, end, nil
}

// above goes up from a line over empty lines and comments that begin with it: they belong to what follows. It doesn't go above first.
func above(lines []string, at, first int) int {
	for at > first {
		line := strings.TrimRight(lines[at-1], " \t\r\n")
		if line != "" && !strings.HasPrefix(line, "#") && line != "..." {
			break
		}
		at--
	}
	return at
}
