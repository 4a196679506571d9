package addons

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

// roleLabel begins the label that `kubectl get nodes` shows as ROLES. A kubelet may not set it on itself (admission
// plugin NodeRestriction), so the control plane does.
const roleLabel = "node-role.kubernetes.io/"

const (
	// lookForNodes is how often nodes without their label are looked for.
	lookForNodes = 10 * time.Second
	// maxNodesFile bounds the nodes file in bytes.
	maxNodesFile = 4 << 20
)

// nodeRole is what the nodes file says of a node; it says more than this.
type nodeRole struct {
	Name string `json:"name"`
	Role string `json:"role"`
}

// labelForever gives each node of the nodes file its role's label until ctx ends. Without the file it does nothing.
func labelForever(ctx context.Context, client kubernetes.Interface, file string) {
	for ctx.Err() == nil {
		pass, cancel := context.WithTimeout(ctx, 30*time.Second)
		if err := labelAll(pass, client, file); err != nil {
			klog.V(2).ErrorS(err, "Cannot label nodes yet")
		}
		cancel()
		sleep(ctx, lookForNodes)
	}
}

// labelAll labels the nodes that exist and lack their label. It takes no label away: another may have put it there.
func labelAll(ctx context.Context, client kubernetes.Interface, file string) error {
	roles, err := readRoles(file)
	if err != nil {
		return err
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("cannot list nodes: %w", err)
	}
	var faults []error
	for _, node := range nodes.Items {
		role, known := roles[node.Name]
		if _, labelled := node.Labels[roleLabel+role]; !known || labelled {
			continue
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]string{roleLabel + role: ""}}})
		if err != nil {
			return err
		}
		options := metav1.PatchOptions{FieldManager: fieldManager}
		if _, err := client.CoreV1().Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, patch, options); err != nil {
			faults = append(faults, fmt.Errorf("cannot label node %s: %w", node.Name, err))
		}
	}
	return errors.Join(faults...)
}

// readRoles reads the nodes file: roles by node name. A file that doesn't exist holds none.
func readRoles(file string) (map[string]string, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read nodes: %w", err)
	}
	defer f.Close()
	var list []nodeRole
	if err := json.NewDecoder(io.LimitReader(f, maxNodesFile)).Decode(&list); err != nil {
		return nil, fmt.Errorf("cannot read nodes: %s: %w", file, err)
	}
	roles := map[string]string{}
	for _, n := range list {
		if n.Name != "" && n.Role != "" {
			roles[n.Name] = n.Role
		}
	}
	return roles, nil
}
