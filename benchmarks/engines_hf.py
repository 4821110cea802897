"""transformers generate() on CPU. MODEL and dtype come as arguments: --arg model=DIR --arg
dtype=float32"""
import torch


class HF:
    def __init__(self, model, dtype="float32", threads="2", gguf_file=None, attn="sdpa"):
        from transformers import AutoModelForCausalLM
        torch.set_num_threads(int(threads))
        kw = dict(gguf_file=gguf_file) if gguf_file else {}
        self.m = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype), attn_implementation=attn, **kw).eval()

    @torch.inference_mode()
    def generate(self, prompts, max_tokens, on_token=None):
        x = torch.tensor(prompts)
        streamer = None
        if on_token and len(prompts) == 1:
            class S:
                n = -1  # the first put() is the prompt
                def put(self, v):
                    self.n += 1
                    if self.n:
                        on_token(0, self.n)
                def end(self): pass
            streamer = S()
        o = self.m.generate(x, attention_mask=torch.ones_like(x), max_new_tokens=max_tokens, min_new_tokens=max_tokens,
                            do_sample=False, streamer=streamer)
        return o[:, x.shape[1]:].tolist()


class HFContinuous(HF):
    """transformers' own continuous batching (generate_batch) with the paged cache."""

    def __init__(self, model, dtype="float32", threads="2", attn="paged|sdpa", num_blocks=None, max_batch_tokens=None):
        super().__init__(model, dtype, threads, attn=attn)
        self.blocks, self.mbt = num_blocks, max_batch_tokens

    @torch.inference_mode()
    def generate(self, prompts, max_tokens, on_token=None):
        from transformers import GenerationConfig
        g = GenerationConfig(max_new_tokens=max_tokens, do_sample=False, eos_token_id=-1, pad_token_id=2)
        if self.blocks:
            g.num_blocks = int(self.blocks)
        if self.mbt:
            g.max_batch_tokens = int(self.mbt)
        r = self.m.generate_batch(prompts, generation_config=g, progress_bar=False)
        return [v.generated_tokens for v in r.values()]
