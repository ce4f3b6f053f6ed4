#!/usr/bin/env python3
"""Makes reference folders of random tiny models with transformers: other sizes, groups, rope rules than the committed.

    make_model_cases.py OUT [--count 40] [--seed 1]

Needs torch, transformers and numpy; never needed to build, test or run. Each folder is what src/model/reference_case.h
reads: config.json, model.safetensors, tokens.npy, logits.npy, hidden.npy, meta.json. `westlake check OUT/*` runs them.
"""
import argparse
import json
import pathlib
import random

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM


def rope_scaling(rng, family, max_position):
    kinds = ["none", "linear", "yarn"] + (["llama3"] if family == "llama" else [])
    kind = rng.choice(["none", "yarn", "yarn"] if family.startswith("deepseek") else kinds)
    original = rng.choice([32, 64, 256, 4096])
    if kind == "linear":
        return {"type": "linear", "factor": rng.choice([2.0, 4.0, 3.5])}
    if kind == "llama3":
        return {"rope_type": "llama3", "factor": rng.choice([8.0, 32.0]), "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": original}
    if kind == "yarn":
        scaling = {"type": "yarn", "factor": rng.choice([4, 8, 20, 40]), "original_max_position_embeddings": original}
        if family.startswith("deepseek"):
            mscale, mscale_all = rng.choice([(1.0, 1.0), (0.707, 0.707), (1.0, 0.5), (0.707, 1.0)])
            scaling.update(beta_fast=rng.choice([32, 1, 16]), beta_slow=1, mscale=mscale, mscale_all_dim=mscale_all)
        return scaling
    return None


def config_for(rng, family):
    heads = rng.choice([1, 2, 3, 4, 6])
    config = {
        "model_type": family, "vocab_size": rng.choice([65, 128, 200, 257]), "hidden_act": "silu",
        "hidden_size": heads * rng.choice([12, 20, 22, 32]), "intermediate_size": rng.choice([48, 100, 131]),
        "num_hidden_layers": rng.choice([1, 2, 3, 4]), "num_attention_heads": heads, "num_key_value_heads": heads,
        "max_position_embeddings": 4096, "rms_norm_eps": rng.choice([1e-6, 1e-5]),
        "rope_theta": rng.choice([10000.0, 500000.0, 50000.0]), "tie_word_embeddings": rng.random() < 0.3,
        "bos_token_id": 0, "eos_token_id": 1, "attention_bias": False,
    }
    config["rope_scaling"] = rope_scaling(rng, family, 4096)
    if config["rope_scaling"] and config["rope_scaling"].get("type") == "yarn":
        s = config["rope_scaling"]
        config["max_position_embeddings"] = s["factor"] * s["original_max_position_embeddings"]
    if family.startswith("deepseek"):
        config.update(q_lora_rank=rng.choice([None, 24, 33]), kv_lora_rank=rng.choice([8, 20, 32, 48]),
                      qk_nope_head_dim=rng.choice([8, 12, 16]), qk_rope_head_dim=rng.choice([4, 8, 16]),
                      v_head_dim=rng.choice([8, 12, 20]), moe_intermediate_size=rng.choice([12, 20, 33]),
                      n_shared_experts=rng.choice([1, 2]), first_k_dense_replace=rng.choice([0, 1, 1, 2]),
                      moe_layer_freq=1, routed_scaling_factor=rng.choice([1.0, 2.5, 16.0]))
        groups, size = rng.choice([(1, 8), (2, 4), (4, 3), (4, 4), (8, 2), (3, 5)])
        kept = rng.randint(1, groups)
        config.update(n_routed_experts=groups * size, n_group=groups, topk_group=kept,
                      num_experts_per_tok=rng.randint(1, min(6, kept * size)))
        if family == "deepseek_v2":
            config.update(topk_method="greedy" if groups == 1 else "group_limited_greedy", scoring_func="softmax",
                          norm_topk_prob=False)
        else:
            config.update(topk_method="noaux_tc", scoring_func="sigmoid", norm_topk_prob=rng.random() < 0.8)
    else:
        config["num_key_value_heads"] = rng.choice([k for k in (1, 2, 3, 6) if heads % k == 0])
        config["head_dim"] = rng.choice([8, 12, 16, 24])
        if family == "llama":
            config["attention_bias"] = rng.random() < 0.3
        if family == "qwen2":
            config["hidden_size"] = heads * config["head_dim"]
            del config["head_dim"]
        if family == "qwen3_moe":
            experts = rng.choice([4, 6, 10])
            config.update(num_experts=experts, num_experts_per_tok=rng.randint(1, 4), norm_topk_prob=rng.random() < 0.7,
                          moe_intermediate_size=rng.choice([12, 28]), decoder_sparse_step=rng.choice([1, 1, 2]),
                          mlp_only_layers=[0] if rng.random() < 0.3 else [])
    return config


def make(folder, rng, family):
    torch.manual_seed(rng.randrange(1 << 30))
    raw = config_for(rng, family)
    config = AutoConfig.for_model(**json.loads(json.dumps(raw)))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", experts_implementation="eager").float().eval()
    with torch.no_grad():
        for name, p in list(model.named_parameters()) + list(model.named_buffers()):
            if "inv_freq" in name:
                continue
            if name.endswith("e_score_correction_bias"):
                p.copy_(torch.randn_like(p) * 0.1)
            elif p.dim() == 1:
                p.copy_((torch.zeros_like(p) if "bias" in name else torch.ones_like(p)) + torch.randn_like(p) * 0.2)
            else:
                p.copy_(torch.randn_like(p) * (1.0 if "embed" in name else 1.2 / p.shape[-1] ** 0.5))
            p.copy_(p.bfloat16().float() if not name.endswith("correction_bias") else p)
    tokens = torch.randint(0, raw["vocab_size"], (1, rng.choice([1, 2, 17, 48, 90, 140])))
    with torch.no_grad():
        out = model(tokens, output_hidden_states=True, use_cache=False)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    raw["architectures"] = list(config.architectures or [])
    (folder / "config.json").write_text(json.dumps(raw, indent=1))
    np.save(folder / "tokens.npy", tokens[0].numpy().astype(np.int32))
    np.save(folder / "logits.npy", out.logits[0].numpy().astype(np.float32))
    (folder / "meta.json").write_text(json.dumps({"tolerance": 1e-3, "reference": "transformers, eager, float32"}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    families = ["deepseek_v2", "deepseek_v3", "llama", "qwen2", "qwen3", "qwen3_moe"]
    for i in range(args.count):
        family = families[i % len(families)]
        make(args.out / f"{i:03}_{family}", rng, family)
