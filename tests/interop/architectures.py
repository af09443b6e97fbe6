# SPDX-License-Identifier: Apache-2.0
"""Weights of torchvision's, timm's and mmpretrain's networks: Polyak finds each tensor by its key map, and computes what
the network in Python computes. Random weights, so that nothing is downloaded.

Usage: architectures.py POLYAK CLASSIFIER_TOOL. Needs torch, torchvision, timm, mmengine and mmpretrain.
"""
import pathlib
import subprocess
import sys
import tempfile
import warnings

import torch

warnings.filterwarnings("ignore")  # of the libraries, about what is installed

import timm
import torchvision
from mmpretrain.registry import MODELS
import mmpretrain.models  # registers them

POLYAK, TOOL = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
CLASSES = 10
TOLERANCE = 1e-5  # of the largest logit


def check(condition, message):
    if not condition:
        raise AssertionError(message)


def bare(build, *arguments, **options):
    """A network whose tensors hold anything: what its own initialisation would do takes most of the time."""
    with torch.device("meta"):
        network = build(*arguments, **options)
    return network.to_empty(device="cpu")


def randomize(network):
    """Weights with which every tensor matters, statistics too."""
    torch.manual_seed(7)
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(3)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.dim() == 1:
            tensor.normal_(0, 0.1)
            if name.endswith("weight"):  # of a normalisation; the last of a block, small, as branches add up
                tensor.add_(0.3 if name.endswith(("bn2.weight", "bn3.weight")) else 1)
        else:
            fan_in = tensor[0].numel() if tensor.dim() > 1 else 1
            tensor.normal_(0, 0.5 if name.endswith(("token", "pos_embed", "pos_embedding")) else (2 / fan_in) ** 0.5)
    return network.eval()


def classifier(backbone, classes=CLASSES):
    return f"{{type: ImageClassifier, backbone: {backbone}, head: {{type: LinearClsHead, num_classes: {classes}}}}}"


def save(folder, weights, side):
    torch.manual_seed(3)
    images = torch.rand(1, 3, side, side)
    torch.save({"images": images}, folder / "images.pth")
    torch.save(weights, folder / "weights.pth")
    return images


def load(folder, model):
    """What Polyak's model computes with the file's weights, how they differ from it, and what was logged."""
    done = subprocess.run([TOOL, model, "weights.pth", "images.pth", "logits.pth"], cwd=folder, capture_output=True,
                          text=True)
    check(done.returncode == 0, done.stderr)
    found = torch.load(folder / "logits.pth", weights_only=True)
    return found["logits"], found["difference"], done.stderr


def distance(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def compare(folder, name, network, side, backbone, key_map):
    randomize(network)
    images = save(folder, network.state_dict(), side)
    with torch.no_grad():
        theirs = network(images)
    check(theirs.shape == (1, CLASSES) and theirs.std() > 1e-3, f"{name}: logits that say nothing: {theirs}")
    logits, difference, log = load(folder, classifier(backbone))
    check(difference == "", f"{name}: {difference}")
    check((f"by the key map {key_map}:" in log) if key_map else ("key map" not in log), f"{name}: {log}")
    check("num_heads" not in log or key_map == "mmpretrain_vit", f"{name}: {log}")
    error = distance(logits, theirs)
    check(error <= TOLERANCE, f"{name}: the logits differ by {error:.1e} of the largest")
    print(f"{name}: {error:.1e}")


def build_mmpretrain(backbone, head):
    return MODELS.build({"type": "ImageClassifier", "backbone": backbone, "head": {"num_classes": CLASSES, **head}})


def check_resnets(folder):
    for depth in (18, 34, 50, 101, 152):
        ours = f"{{type: ResNet, depth: {depth}}}"
        network = bare(getattr(torchvision.models, f"resnet{depth}"), num_classes=CLASSES)
        compare(folder, f"torchvision's resnet{depth}", network, 64, ours, "torchvision_resnet")
        network = bare(timm.create_model, f"resnet{depth}", num_classes=CLASSES)
        compare(folder, f"timm's resnet{depth}", network, 64, ours, "torchvision_resnet")
    network = torch.nn.Sequential(build_mmpretrain({"type": "ResNet", "depth": 50}, {
        "type": "LinearClsHead", "in_channels": 2048}))[0]
    # Its neck averages the map.
    network.neck = MODELS.build({"type": "GlobalAveragePooling"})
    network.forward = lambda images: network.head(network.neck(network.backbone(images)))
    compare(folder, "mmpretrain's resnet50", network, 64, "{type: ResNet, depth: 50}", None)


def check_transformers(folder):
    for name, arch in (("vit_small_patch16_224", "deit-small"), ("vit_base_patch16_224", "base")):
        compare(folder, f"timm's {name}", bare(timm.create_model, name, num_classes=CLASSES), 224,
                f"{{type: VisionTransformer, arch: {arch}}}", "timm_vit")
    compare(folder, "torchvision's vit_b_16", bare(torchvision.models.vit_b_16, num_classes=CLASSES), 224,
            "{type: VisionTransformer, arch: base}", "torchvision_vit")
    for arch, width in (("deit-small", 384), ("base", 768)):
        network = build_mmpretrain({"type": "VisionTransformer", "arch": arch},
                                   {"type": "VisionTransformerClsHead", "in_channels": width})
        network.forward = lambda images, network=network: network.head(network.backbone(images))
        compare(folder, f"mmpretrain's VisionTransformer {arch}", network, 224,
                f"{{type: VisionTransformer, arch: {arch}}}", "mmpretrain_vit")


def check_wrong_heads(folder):
    """All tensors of timm's vit_small fit a network of 12 heads, and mean something else there: the log says so."""
    network = randomize(bare(timm.create_model, "vit_small_patch16_224", num_classes=CLASSES))
    images = save(folder, network.state_dict(), 224)
    with torch.no_grad():
        theirs = network(images)
    for backbone in ("{type: MoCoV3ViT, arch: mocov3-small}",
                     "{type: VisionTransformer, arch: {embed_dims: 384, num_layers: 12, num_heads: 12,"
                     " feedforward_channels: 1536}}"):
        logits, difference, log = load(folder, classifier(backbone))
        check(difference == "", difference)
        check("timm's networks of width 384 have 6, but this model has 12" in log, log)
        check(distance(logits, theirs) > 1e-2, "the number of heads changes nothing")


def check_other_head(folder):
    """A run with other classes begins, and names what it leaves out."""
    torch.save(randomize(torchvision.models.resnet18()).state_dict(), folder / "weights.pth")
    (folder / "config.yaml").write_text(f"""
model: {classifier("{type: ResNet, depth: 18}", classes=7)}
train_dataloader: {{batch_size: 4, dataset: {{type: RandomImages, size: 8, channels: 3, image_size: 32, num_classes: 7}}}}
train_cfg: {{by_epoch: true, max_epochs: 1}}
optim_wrapper: {{optimizer: {{type: SGD, lr: 0.0}}}}
""")
    done = subprocess.run([POLYAK, "train", "config.yaml", "--work-dir", "run", "--load-from", "weights.pth"], cwd=folder,
                          capture_output=True, text=True)
    check(done.returncode == 0, done.stderr)
    check("head.fc.weight ([1000, 512] in the checkpoint, [7, 512] in the model)" in done.stderr, done.stderr)
    check("head.fc.bias" in done.stderr, done.stderr)
    check("missing in the checkpoint" not in done.stderr and "not in the model" not in done.stderr, done.stderr)
    weights = torch.load(folder / "weights.pth", weights_only=True)
    trained = torch.load(folder / "run" / "epoch_1.pth", weights_only=True)["state_dict"]
    for name in ("conv1.weight", "layer4.1.conv2.weight", "layer2.0.downsample.1.bias"):
        check(torch.equal(trained[f"backbone.{name}"], weights[name]), name)
    check(trained["head.fc.weight"].shape == (7, 512), "the head")


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        check_resnets(folder)
        check_transformers(folder)
        check_wrong_heads(folder)
        check_other_head(folder)
    print(f"weights of torchvision {torchvision.__version__}, timm {timm.__version__} and mmpretrain "
          f"{mmpretrain.__version__} mean the same in Polyak")


if __name__ == "__main__":
    main()
